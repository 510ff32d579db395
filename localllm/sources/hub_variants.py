"""From the files of a repository or a folder to what can be pulled from it.

Quantized GGUFs are one variant each, their shards in order, with the mmproj that belongs to
them; a safetensors model is one variant, whole; so is a LoRA adapter. Everything else
(importance matrices, `.bin` duplicates, ONNX, Flax, `original/`) is left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from localllm.sources.base import FileRole, ModelFormat, RemoteFile, Variant
from localllm.sources.names import quant_of, shard_name, split_of
from localllm.sources.safetensors_variants import safetensors_variants

_MMPROJ = re.compile(r"(?<![a-z])mmproj(?![a-z])", re.IGNORECASE)
_ADAPTER = re.compile(r"(?<![a-z])(?:lora|adapter)(?![a-z])", re.IGNORECASE)
_NO_MODEL = re.compile(r"imatrix|ggml-vocab", re.IGNORECASE)
_MMPROJ_ORDER = ("F16", "BF16", "F32", "Q8_0")  # the best first: what image encoders are run at


@dataclass(frozen=True)
class Variants:
    """What a place has. `incomplete` lack shards; their extras name them under "missing"."""

    complete: tuple[Variant, ...]
    incomplete: tuple[Variant, ...] = ()


@dataclass(frozen=True)
class _Gguf:
    """One GGUF as its names tell it, whole or in shards."""

    path: str  # without shard number and suffix
    quant: str | None
    base: str  # the name without the label: what it is a quantization of
    format: ModelFormat
    files: tuple[RemoteFile, ...]
    missing: tuple[str, ...]


def classify(files: Iterable[RemoteFile]) -> Variants:
    """Sort `files` (any roles; new ones are given) into variants, by name."""
    every = sorted(files, key=lambda file: file.name)
    ggufs = [_gguf(path, group) for path, group in _by_path(every).items()]
    models = [g for g in ggufs if g.format == "gguf"]
    mmprojs = [g for g in ggufs if g.format == "mmproj" and not g.missing]
    shown = models + [g for g in ggufs if g.format == "adapter"] or mmprojs
    named = _named(shown)
    made = [_variant(g, name, _companion(g, mmprojs, models)) for g, name in named]
    whole, broken = safetensors_variants(every, alone=not made)
    return Variants(
        tuple(v for v in made if "missing" not in v.extras) + whole,
        tuple(v for v in made if "missing" in v.extras) + broken,
    )


def _by_path(files: Sequence[RemoteFile]) -> dict[str, list[RemoteFile]]:
    """The GGUF files by their path without shard number and suffix."""
    groups: dict[str, list[RemoteFile]] = defaultdict(list)
    for file in files:
        path = PurePosixPath(file.name)
        if path.suffix.lower() != ".gguf":
            continue
        if _NO_MODEL.search(path.name) and quant_of(path.stem)[0] is None:
            continue
        split = split_of(file.name[:-5])
        # Shards of another count are another model, of the same name as it may be.
        key = f"{split.stem}\0{split.count}" if split else file.name[:-5]
        groups[key].append(file)
    return groups


def _gguf(key: str, group: Sequence[RemoteFile]) -> _Gguf:
    path, _, count = key.partition("\0")
    found = {split.index for f in group if (split := split_of(f.name[:-5]))}
    wanted = range(1, int(count) + 1) if count else ()
    missing = tuple(shard_name(path, i, int(count)) + ".gguf" for i in wanted if i not in found)
    pure = PurePosixPath(path)
    quant, base = quant_of(pure.name)
    if quant is None and pure.parent.name:
        quant = quant_of(pure.parent.name)[0]
    kind: ModelFormat = "gguf"
    if _MMPROJ.search(pure.name):
        kind = "mmproj"
        base = _MMPROJ.sub("", base).strip("-._ ")
    elif _ADAPTER.search(pure.name) and "merged" not in pure.name.lower():
        kind = "adapter"
    role: FileRole = {"mmproj": "mmproj", "adapter": "adapter"}.get(kind, "weights")  # type: ignore[assignment]
    files = tuple(replace(f, role=role) for f in sorted(group, key=lambda f: f.name))
    return _Gguf(path, quant, base, kind, files, missing)


def _named(ggufs: Sequence[_Gguf]) -> list[tuple[_Gguf, str]]:
    """Each with a name of its own: its label if that is enough, else its stem, else its path."""
    labels = Counter(g.quant.casefold() for g in ggufs if g.quant)
    stems = Counter(PurePosixPath(g.path).name.casefold() for g in ggufs)
    named = []
    for g in ggufs:
        stem = PurePosixPath(g.path).name
        if g.quant and labels[g.quant.casefold()] == 1:
            named.append((g, g.quant))
        else:
            named.append((g, stem if stems[stem.casefold()] == 1 else g.path))
    return named


def _variant(gguf: _Gguf, name: str, mmproj: _Gguf | None) -> Variant:
    extras: dict[str, object] = {"base": gguf.base}
    if gguf.quant:
        extras["quant"] = gguf.quant
    if gguf.missing:
        extras["missing"] = gguf.missing
    companion = () if mmproj is None else mmproj.files
    return Variant(name, gguf.format, gguf.files + companion, extras)


def _companion(gguf: _Gguf, mmprojs: Sequence[_Gguf], models: Sequence[_Gguf]) -> _Gguf | None:
    """The image encoder that belongs to a model; None where none does, or nobody can tell."""
    if gguf.format != "gguf" or not mmprojs:
        return None
    own = [m for m in mmprojs if m.base and m.base.casefold() == gguf.base.casefold()]
    if not own and len({m.base.casefold() for m in models}) == 1:
        own = list(mmprojs)
    if not own:
        unnamed = [m for m in mmprojs if not m.base]
        folder = PurePosixPath(gguf.path).parent
        own = [m for m in unnamed if PurePosixPath(m.path).parent == folder]
    return min(own, key=_mmproj_rank, default=None)


def _mmproj_rank(mmproj: _Gguf) -> tuple[int, str]:
    known = mmproj.quant in _MMPROJ_ORDER
    rank = _MMPROJ_ORDER.index(mmproj.quant) if known and mmproj.quant else len(_MMPROJ_ORDER)
    return rank, mmproj.path
