"""File names: which are safe on every system, and what model file names say.

The conventions are llama.cpp's (`-00001-of-00003.gguf`) and those of the publishers of
quantized models: `model-Q4_K_M.gguf`, `model.i1-IQ2_XS.gguf`, `Q4_K_M/model-Q4_K_M-0000…`,
`UD-Q4_K_XL`, `mmproj-F16.gguf`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPLIT = re.compile(r"(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})", re.DOTALL)
_LABEL = re.compile(
    r"""(?<![A-Za-z0-9])
    (?P<maker>(?:UD|i1)[-_])?          # Unsloth's dynamic mixes, mradermacher's imatrix ones
    (?P<type>
        I?Q[1-9]\d?(?:_(?:[0-9]{1,2}|K|KS|KSS|KT|KL|P|R[48]|NL|XXS|XS|S|M|L|XL|XXL))*
      | TQ[12]_0 | MXFP4(?:_MOE)? | NVFP4 | BF16 | F(?:P)?16 | F(?:P)?32 | F64
    )
    (?![A-Za-z0-9])""",
    re.VERBOSE | re.IGNORECASE,
)
_MAKER = re.compile(r"(?:UD|I1)-")
_WINDOWS_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.I)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')
_LONGEST = 200  # of one component, in UTF-8 bytes; file systems end at 255


@dataclass(frozen=True)
class Split:
    """A shard's place: `index` counts from 1."""

    stem: str
    index: int
    count: int


def split_of(stem: str) -> Split | None:
    """The shard that a file stem (a name without `.gguf`) names, None for a whole file."""
    match = _SPLIT.fullmatch(stem)
    if match is None:
        return None
    index, count = int(match["index"]), int(match["count"])
    return Split(match["stem"], index, count) if 1 <= index <= count else None


def shard_name(stem: str, index: int, count: int) -> str:
    """llama.cpp's name for a shard, without the suffix."""
    return f"{stem}-{index:05d}-of-{count:05d}"


def quant_of(stem: str) -> tuple[str | None, str]:
    """The quantization label in a file stem as a user would write it, and the stem without it.

    Of several labels the last counts (`model-F16-Q6_K`): types are upper case, FP16 reads F16,
    `UD-` and `i1-` stay. None where there is no label.
    """
    matches = list(_LABEL.finditer(stem))
    if not matches:
        return None, stem
    last = matches[-1]
    rest = (stem[: last.start()].rstrip("-._ ") + stem[last.end() :]).strip("-._ ")
    maker = {"ud": "UD-", "i1": "i1-"}.get((last["maker"] or "")[:2].lower(), "")
    return maker + last["type"].upper().replace("FP16", "F16").replace("FP32", "F32"), rest


def plain_quant(label: str) -> str:
    """A label reduced for comparison: upper case, no maker's prefix, FP16 as F16."""
    label = label.upper().replace("FP16", "F16").replace("FP32", "F32")
    return _MAKER.sub("", label, count=1)


def safe_path(name: str) -> bool:
    """Whether `name` is a relative path that means the same below a folder of any system."""
    return all(safe_component(part) == part for part in name.split("/"))


def safe_component(name: str) -> str:
    """`name` as one path component that every system takes; never empty."""
    clean = _FORBIDDEN.sub("_", name).rstrip(". ").lstrip(" ")
    clean = "_" + clean if clean.startswith("..") or _WINDOWS_DEVICES.fullmatch(clean) else clean
    stem, dot, suffix = clean.rpartition(".")
    if len(clean.encode(errors="replace")) > _LONGEST:
        keep = _LONGEST - len((dot + suffix).encode(errors="replace")) if len(suffix) < 20 else 0
        stem, end = (stem, dot + suffix) if keep else (clean, "")
        cut = stem.encode(errors="replace")[: keep or _LONGEST].decode(errors="ignore")
        clean = cut.rstrip(". ") + end
    return clean or "_"
