"""The header of one safetensors file: 8 bytes of length, JSON, then tensor data.

The rules are those of the format's own reader (huggingface/safetensors, `tensor.rs`): at
most 100 MB of JSON, no key twice, every tensor's bytes exactly its shape's, and the data
section filled without holes or overlaps to the last byte of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from localllm.errors import DamagedFile, FileGone
from localllm.formats.prefix import DAMAGED_HINT, NeedMoreBytes

HEADER_LIMIT_BYTES = 100_000_000
LENGTH_BYTES = 8
INT64_MAX = 2**63 - 1

DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8,
    "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """One tensor. `shape` in PyTorch's order (rows first); `offset` in bytes from the start
    of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int
    n_elements: int


@dataclass(frozen=True, eq=False)
class SafetensorsHeader:
    """`metadata` is the free-form text map `__metadata__`; `data_offset` is where data starts."""

    name: str
    metadata: Mapping[str, str]
    tensors: Mapping[str, SafeTensor]
    data_offset: int

    @cached_property
    def n_params(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.n_elements for tensor in self.tensors.values())

    @cached_property
    def weights_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    @cached_property
    def dtypes(self) -> Mapping[str, int]:
        """Bytes of each dtype, the largest first."""
        return dtype_bytes(self.tensors.values())


def dtype_bytes(tensors: Iterable[SafeTensor]) -> Mapping[str, int]:
    """Bytes of each dtype, the largest first."""
    sums: dict[str, int] = {}
    for tensor in tensors:
        sums[tensor.dtype] = sums.get(tensor.dtype, 0) + tensor.size_bytes
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def read_safetensors(path: Path) -> SafetensorsHeader:
    """The header of a file. Reads the header only. Raises FileGone, DamagedFile, OSError."""
    try:
        with path.open("rb") as file:
            total_size = path.stat().st_size
            prefix = file.read(LENGTH_BYTES)
            end = _header_end(prefix, total_size, path.name)
            return parse_safetensors(
                prefix + file.read(end - LENGTH_BYTES), total_size, name=path.name
            )
    except FileNotFoundError:
        raise FileGone(f"{path} does not exist") from None


def parse_safetensors(
    buffer: bytes, total_size: int | None = None, *, name: str = ""
) -> SafetensorsHeader:
    """The header in `buffer`, a whole file or the first bytes of one of `total_size` bytes.

    Raises DamagedFile, and NeedMoreBytes (with the exact need) when the prefix is too short.
    """
    name = name or "safetensors data"
    total_size = len(buffer) if total_size is None else total_size
    end = _header_end(buffer, total_size, name)
    if len(buffer) < end:
        raise NeedMoreBytes(end)
    parsed = _json(buffer[LENGTH_BYTES:end], name)
    metadata = _metadata(parsed.pop("__metadata__", None), name)
    tensors = {key: _tensor(key, value, name) for key, value in parsed.items()}
    _check_extents(tensors, total_size - end, name)
    return SafetensorsHeader(name, metadata, tensors, end)


def _damaged(name: str, what: str) -> NoReturn:
    raise DamagedFile(f"{name}: {what}", DAMAGED_HINT)


def _header_end(buffer: bytes, total_size: int, name: str) -> int:
    if total_size < LENGTH_BYTES:
        _damaged(name, f"not a safetensors file: {total_size} bytes are less than its length field")
    if len(buffer) < LENGTH_BYTES:
        raise NeedMoreBytes(LENGTH_BYTES)
    length = int.from_bytes(buffer[:LENGTH_BYTES], "little")
    if length > HEADER_LIMIT_BYTES:
        _damaged(
            name,
            f"not a safetensors file: it claims a header of {length} bytes, "
            f"the format allows {HEADER_LIMIT_BYTES}",
        )
    if LENGTH_BYTES + length > total_size:
        _damaged(name, f"cut short: a header of {length} bytes in a file of {total_size}")
    return LENGTH_BYTES + length


def _json(raw: bytes, name: str) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        _damaged(name, f"not a safetensors file: its header begins with {raw[:8]!r}")
    try:
        parsed = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a key twice, too deep
        _damaged(name, f"its header is not valid JSON: {type(error).__name__}: {str(error)[:200]}")
    if not isinstance(parsed, dict):
        _damaged(name, "its header is not a JSON object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key appears twice")
    return result


def _metadata(value: object, name: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        _damaged(name, "its __metadata__ is not a map of text to text")
    return value


def _tensor(key: str, value: object, name: str) -> SafeTensor:
    what = f"tensor {key[:100]!r}"
    if not isinstance(value, dict) or not value.keys() >= {"dtype", "shape", "data_offsets"}:
        _damaged(name, f"{what} lacks one of dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        _damaged(name, f"{what} has the unknown dtype {str(dtype)[:40]!r}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        _damaged(name, f"{what} has a shape or offsets that are not counts")
    n_elements = 1
    for n in shape:
        n_elements *= n
        if n_elements > INT64_MAX:
            _damaged(name, f"{what} claims more elements than 64 bits can count")
    begin, end = offsets
    if n_elements * bits != (end - begin) * 8:
        _damaged(name, f"{what} of shape {tuple(shape)} in {dtype} is not {end - begin} bytes")
    return SafeTensor(key, dtype, tuple(shape), begin, end - begin, n_elements)


def _counts(value: object) -> bool:
    """A list of non-negative whole numbers of 64 bits."""
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= INT64_MAX for v in value
    )


def _check_extents(tensors: Mapping[str, SafeTensor], data_bytes: int, name: str) -> None:
    end = 0
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.size_bytes)):
        if tensor.offset != end:
            fault = "overlaps another" if tensor.offset < end else "leaves a hole before it"
            _damaged(name, f"tensor {tensor.name[:100]!r} {fault}")
        end += tensor.size_bytes
    if end != data_bytes:
        _damaged(name, f"its tensors take {end} bytes, the file has {data_bytes} for them")
