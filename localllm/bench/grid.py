"""llama-bench's option grammar: from the texts of `-p -n -pg -d -b ...` to the cases of a sweep.

Every option takes a comma list and may be repeated. Those that are whole numbers take ranges
too: `a-b`, `a-b+step`, `a-b*factor` (tools/llama-bench/llama-bench.cpp, parse_int_range). Where
llama-bench passes over a mistake in silence (`8-4` is no value, and then the default counts),
this refuses it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from localllm.engine.options import KV_TYPES, SPLIT_MODES, FlashAttention, SplitMode
from localllm.errors import UsageProblem
from localllm.library.bench.case import BenchTest, Case, Setup

T = TypeVar("T")

MAX_CASES = 10_000
_MAX_INT = 2**31 - 1  # what llama-bench's stoi takes

_RANGE = re.compile(r"(?P<first>-?\d+)(?:-(?P<last>\d+)(?:(?P<how>[+*])(?P<step>\d+))?)?", re.ASCII)
_FLASH: dict[str, FlashAttention] = {
    **dict.fromkeys(("on", "enabled", "true", "1"), "on"),
    **dict.fromkeys(("off", "disabled", "false", "0"), "off"),
    **dict.fromkeys(("auto", "-1"), "auto"),
}


@dataclass(frozen=True)
class Axes:
    """The values of every option; the sweep is their product. Defaults are llama-bench's.

    `n_gpu_layers` None is what the plan says, `n_threads` 0 one thread a physical core.
    """

    n_prompt: Sequence[int] = (512,)
    n_gen: Sequence[int] = (128,)
    n_pg: Sequence[tuple[int, int]] = ()
    n_depth: Sequence[int] = (0,)
    n_batch: Sequence[int] = (2048,)
    n_ubatch: Sequence[int] = (512,)
    n_threads: Sequence[int] = (0,)
    n_gpu_layers: Sequence[int | None] = (None,)
    n_cpu_moe: Sequence[int] = (0,)
    split_mode: Sequence[SplitMode] = ("layer",)
    main_gpu: Sequence[int] = (0,)
    tensor_split: Sequence[tuple[float, ...]] = ((),)
    mmap: Sequence[bool] = (True,)
    type_k: Sequence[str] = ("f16",)
    type_v: Sequence[str] = ("f16",)
    no_kv_offload: Sequence[bool] = (False,)
    flash_attn: Sequence[FlashAttention] = ("auto",)


def cases(axes: Axes) -> tuple[Case, ...]:
    """Every case, in llama-bench's order (get_cmd_params_instances): loading options outermost,
    so that a model is loaded as seldom as may be; depths innermost but for the tests.

    Raises UsageProblem where there is nothing to measure, or more than `MAX_CASES`.
    """
    prompts = [n for n in _capped(axes.n_prompt) if n]
    gens = [n for n in _capped(axes.n_gen) if n]
    pairs = [pair for pair in axes.n_pg if any(pair)]
    count = _count(axes, len(prompts) + len(gens) + len(pairs))
    if count == 0:
        raise UsageProblem("nothing to measure", "-p 512, -n 128 or -pg 512,128")
    if count > MAX_CASES:
        raise UsageProblem(
            f"that is a sweep of {count:,} tests; at most {MAX_CASES:,} are run at once",
            "fewer values, or a larger step: -p 512-4096*2",
        )
    sizes = [*((n, 0) for n in prompts), *((0, n) for n in gens), *pairs]
    return tuple(
        Case(setup, BenchTest(n_prompt, n_gen, depth))
        for setup in _setups(axes)
        for depth in axes.n_depth
        for n_prompt, n_gen in sizes
    )


def _setups(axes: Axes) -> Iterable[Setup]:
    return (
        Setup(
            n_gpu_layers=ngl,
            n_cpu_moe=ncmoe,
            split_mode=sm,
            main_gpu=mg,
            tensor_split=ts,
            mmap=mmap,
            n_batch=nb,
            n_ubatch=nub,
            n_threads=nt,
            type_k=tk,
            type_v=tv,
            flash_attn=fa,
            no_kv_offload=nkvo,
        )
        for ngl in axes.n_gpu_layers
        for ncmoe in axes.n_cpu_moe
        for sm in axes.split_mode
        for mmap in axes.mmap
        for mg in axes.main_gpu
        for ts in axes.tensor_split
        for nb in axes.n_batch
        for nub in axes.n_ubatch
        for tk in axes.type_k
        for tv in axes.type_v
        for nkvo in axes.no_kv_offload
        for fa in axes.flash_attn
        for nt in axes.n_threads
    )


def _count(axes: Axes, n_tests: int) -> int:
    """The size of the product, without making it."""
    sweeps: Sequence[Sequence[object]] = (
        axes.n_depth, axes.n_batch, axes.n_ubatch, axes.n_threads, axes.n_gpu_layers,
        axes.n_cpu_moe, axes.split_mode, axes.main_gpu, axes.tensor_split, axes.mmap,
        axes.type_k, axes.type_v, axes.no_kv_offload, axes.flash_attn,
    )  # fmt: skip
    return n_tests * math.prod(len(values) for values in sweeps)


def _capped(values: Sequence[int]) -> Sequence[int]:
    """`values`, refused before they are walked through if they alone are too many."""
    if len(values) > MAX_CASES:
        raise UsageProblem(
            f"that is a sweep of {len(values):,} tests and more; at most {MAX_CASES:,} are run "
            "at once",
            "fewer values, or a larger step: -p 512-4096*2",
        )
    return values


# --- the texts ---------------------------------------------------------------------------


def whole_numbers(
    option: str, texts: Sequence[str], *, least: int = 0, negative: bool = False
) -> Sequence[int]:
    """The values of an option of whole numbers, ranges spelled out.

    `least` is the smallest value it takes; `negative` lets the first number of a range be
    below 0 (`-ngl -1`). A long range stays a `range`. Raises UsageProblem.
    """
    found: list[Sequence[int]] = []
    for text in texts:
        for part in _parts(option, text):
            values = _range(option, part, negative)
            if values[0] < (min(least, -1) if negative else least):
                raise UsageProblem(f"{option} {part}: must be at least {least}")
            found.append(values)
    if len(found) == 1:
        return found[0]
    return [n for values in map(_capped, found) for n in values]


def _range(option: str, part: str, negative: bool) -> Sequence[int]:
    match = _RANGE.fullmatch(part)
    if match is None or (part.startswith("-") and not negative):
        raise UsageProblem(
            f"{option} {part!r} is no number and no range",
            f"{option} 512, {option} 256,512, {option} 128-1024+128 or {option} 128-4096*2",
        )
    first, last = int(match["first"]), int(match["last"] or match["first"])
    step = int(match["step"] or 1)
    if max(abs(first), last, step) > _MAX_INT:
        raise UsageProblem(f"{option} {part}: the largest number is {_MAX_INT}")
    if last < first:
        raise UsageProblem(f"{option} {part}: the range ends before it begins")
    if match["how"] != "*":
        if step == 0:
            raise UsageProblem(f"{option} {part}: a step of 0 never ends")
        return range(first, last + 1, step)
    if first * step <= first:
        raise UsageProblem(f"{option} {part}: multiplied by {step}, {first} never reaches {last}")
    return list(itertools.takewhile(lambda n: n <= last, _powers(first, step)))


def _powers(first: int, factor: int) -> Iterable[int]:
    while True:
        yield first
        first *= factor


def pairs(option: str, texts: Sequence[str]) -> list[tuple[int, int]]:
    """`pp,tg` pairs; several in one text stand between semicolons."""
    found = []
    for text in texts:
        for pair in filter(None, (p.strip() for p in text.split(";"))):
            numbers = pair.split(",")
            if len(numbers) != 2 or not all(
                re.fullmatch(r"[0-9]{1,10}", n.strip()) for n in numbers
            ):
                raise UsageProblem(
                    f"{option} {pair!r} is no pair of a prompt and a generation length",
                    f"{option} 512,128",
                )
            prompt, gen = (int(n) for n in numbers)
            if max(prompt, gen) > _MAX_INT:
                raise UsageProblem(f"{option} {pair}: the largest number is {_MAX_INT}")
            found.append((prompt, gen))
    if not found:
        raise UsageProblem(f"{option} wants a value", f"{option} 512,128")
    return found


def splits(option: str, texts: Sequence[str]) -> list[tuple[float, ...]]:
    """Shares of the devices: `3/1`, several joined by commas; all zero is by free memory."""
    return [_split(option, part) for text in texts for part in _parts(option, text)]


def _split(option: str, part: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(share) for share in re.split(r"[;/]+", part))
    except ValueError:
        shares = (math.nan,)
    if any(not math.isfinite(share) or share < 0 for share in shares):
        raise UsageProblem(f"{option} {part!r} is no split among devices", f"{option} 3/1")
    return shares if any(shares) else ()


def switches(option: str, texts: Sequence[str]) -> list[bool]:
    """0 or 1."""
    return [
        _word(option, part, {"0": False, "1": True}) for t in texts for part in _parts(option, t)
    ]


def flash_modes(option: str, texts: Sequence[str]) -> list[FlashAttention]:
    """on, off, auto, and llama.cpp's other words for them."""
    return [_word(option, part, _FLASH) for text in texts for part in _parts(option, text)]


def split_modes(option: str, texts: Sequence[str]) -> list[SplitMode]:
    known: dict[str, SplitMode] = {name: name for name in SPLIT_MODES}  # type: ignore[misc]
    return [_word(option, part, known) for text in texts for part in _parts(option, text)]


def kv_types(option: str, texts: Sequence[str]) -> list[str]:
    known = {name: name for name in KV_TYPES}
    return [_word(option, part.lower(), known) for text in texts for part in _parts(option, text)]


def _word(option: str, part: str, known: Mapping[str, T]) -> T:
    if part not in known:
        raise UsageProblem(f"{option} {part!r} is none of {', '.join(known)}")
    return known[part]


def _parts(option: str, text: str) -> list[str]:
    """A comma list. One comma may end it, as in llama-bench."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    if not all(parts):
        raise UsageProblem(f"{option} {text!r}: a value is missing")
    return parts
