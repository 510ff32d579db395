"""What was asked for when the best model for a size is wanted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localllm.errors import UsageProblem
from localllm.quantize.requests import Given

DEFAULT_MINUTES = 15.0
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_LEAST_BYTES = 1 << 10
_BPW = (0.1, 32.0)


@dataclass(frozen=True)
class SizeAsked:
    """One of `size_bytes` (of the files), `bpw` (bits a weight of the tensors) and `fit` (this
    machine's memory, with a context of `n_ctx`). `minutes` bound the search; `quick` chooses by
    errors alone, without running the model. `texts` are what is searched with (default: a part
    of the built-in calibration text)."""

    size_bytes: int | None = None
    bpw: float | None = None
    fit: bool = False
    n_ctx: int | None = None
    minutes: float = DEFAULT_MINUTES
    quick: bool = False
    texts: tuple[Path, ...] = ()

    @property
    def mark(self) -> dict[str, Any]:
        """For lineage: what was asked, as plain data."""
        found: dict[str, Any] = {}
        if self.size_bytes is not None:
            found["size_bytes"] = self.size_bytes
        if self.bpw is not None:
            found["bpw"] = self.bpw
        if self.fit:
            found["fit"] = True
        if self.n_ctx is not None:
            found["n_ctx"] = self.n_ctx
        if self.quick:
            found["quick"] = True
        return found


def size_asked(
    size: str | None,
    bpw: float | None,
    fit: bool,
    n_ctx: int | None,
    minutes: float | None,
    quick: bool,
    texts: Sequence[Path],
) -> SizeAsked | None:
    """The options as a request, None without any of the three. Raises UsageProblem."""
    wanted = [("--size", size is not None), ("--bpw", bpw is not None), ("--fit", fit)]
    said = [name for name, given in wanted if given]
    if not said:
        for option, given in (("--ctx", n_ctx is not None), ("--budget", minutes is not None),
                              ("--quick", quick), ("--text", bool(texts))):  # fmt: skip
            if given:
                raise UsageProblem(
                    f"{option} belongs to --size, --bpw or --fit",
                    f"localllm quantize MODEL --size 4GiB {option} ...",
                )
        return None
    if len(said) > 1:
        raise UsageProblem(f"{said[0]} and {said[1]} cannot be used together")
    if n_ctx is not None and not fit:
        raise UsageProblem("--ctx belongs to --fit: a file's size does not depend on a context")
    if quick and (texts or minutes is not None):
        raise UsageProblem("--quick does not run the model: it takes no --text and no --budget")
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise UsageProblem(f"--budget {minutes:g}: minutes, more than 0", "--budget 10")
    if bpw is not None and not _BPW[0] <= bpw <= _BPW[1]:  # NaN too
        raise UsageProblem(f"--bpw {bpw:g}: bits a weight, {_BPW[0]} to {_BPW[1]:g}", "--bpw 4.25")
    return SizeAsked(
        size_bytes=None if size is None else parse_file_size(size),
        bpw=bpw,
        fit=fit,
        n_ctx=n_ctx,
        minutes=DEFAULT_MINUTES if minutes is None else minutes,
        quick=quick,
        texts=tuple(texts),
    )


def parse_file_size(text: str) -> int:
    """Bytes of `4.0GiB`, `4G`, `700MiB` (powers of two), `4GB` (powers of ten, as disks and
    download pages count: the smaller reading, so that the file is never larger than meant), or a
    number of bytes. Raises UsageProblem."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?)(i?b)?\s*", text, re.IGNORECASE)
    if match is None or ("." in match[1] and not match[2]):
        raise UsageProblem(f"{text!r} is not a size", "write it like 4.0GiB, 700MiB or 4GB")
    unit, suffix = match[2].lower(), (match[3] or "").lower()
    if suffix == "ib" and not unit:
        raise UsageProblem(f"{text!r} is not a size", "write it like 4.0GiB, 700MiB or 4GB")
    scale = _DECIMAL[unit] if unit and suffix == "b" else _UNITS[unit]
    size = int(float(match[1]) * scale) if "." in match[1] else int(match[1]) * scale
    if size < _LEAST_BYTES:
        hint = f"write {match[1]}GiB or {match[1]}MiB" if not unit and size else "--size 4.0GiB"
        raise UsageProblem(f"no model has {text.strip()} bytes", hint)
    return size


def check_beside(given: Given, *, ladder: bool = False) -> None:
    """Raise UsageProblem for options that decide what the search is to decide, or that ask for
    several models."""
    beside = {
        f"the type {given.types[0]}" if given.types else "": given.types,
        "--plan": given.plan,
        "--pure": given.pure,
        "--prune-layers": given.prune_layers,
    }
    for option, value in beside.items():
        if value:
            raise UsageProblem(
                f"{option} and a size cannot both be asked for",
                "--size chooses every tensor's type; pin some with --tensor-type REGEX=TYPE",
            )
    if (given.include_weights or given.exclude_weights) and given.imatrix == "none":
        raise UsageProblem("--include-weights and --exclude-weights choose from an --imatrix")
    if ladder:
        raise UsageProblem(
            "--ladder and a size cannot both be asked for",
            "a ladder makes several models: --measure shows the one beside its siblings",
        )
