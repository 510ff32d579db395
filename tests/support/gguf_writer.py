"""A small independent writer of GGUF headers, for tests that need exact control of the bytes.

It shares no code with `localllm.formats` and none with the `gguf` package, so a reader that
agrees with it agrees with the published format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    metadata = {"general.architecture": "llama", "llama.block_count": U32(2), "a": Arr("i32", [1])}
    tensors = [T("token_embd.weight", (256, 320), "F16")]
    blob = header_bytes(metadata, tensors)
    write_sparse(path, metadata, tensors)  # full size on the file system, no blocks used
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_ALIGNMENT = 32

# name -> (type number in the file, struct code); struct code "" has its own encoding below
VALUE_TYPES: dict[str, tuple[int, str]] = {
    "u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"),
    "u32": (4, "I"), "i32": (5, "i"), "f32": (6, "f"), "bool": (7, "B"),
    "str": (8, ""), "arr": (9, ""), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d"),
}  # fmt: skip

# ggml type name -> (number, elements in a block, bytes of a block)
GGML_TYPES: dict[str, tuple[int, int, int]] = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q8_1": (9, 32, 36),
    "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "Q8_K": (15, 256, 292),
    "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74), "IQ3_XXS": (18, 256, 98),
    "IQ1_S": (19, 256, 50), "IQ4_NL": (20, 32, 18), "IQ3_S": (21, 256, 110),
    "IQ2_S": (22, 256, 82), "IQ4_XS": (23, 256, 136), "I8": (24, 1, 1), "I16": (25, 1, 2),
    "I32": (26, 1, 4), "I64": (27, 1, 8), "F64": (28, 1, 8), "IQ1_M": (29, 256, 56),
    "BF16": (30, 1, 2), "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66), "MXFP4": (39, 32, 17),
    "NVFP4": (40, 64, 36), "Q1_0": (41, 128, 18), "Q2_0": (42, 64, 18),
}  # fmt: skip


@dataclass(frozen=True)
class Val:
    """A scalar with its type in the file: `Val("u32", 7)`."""

    kind: str
    value: Any


@dataclass(frozen=True)
class Arr:
    """An array of one type: `Arr("str", ["a", "b"])`; `Arr("arr", [Arr("i32", [1])])` nests."""

    kind: str
    values: Sequence[Any]


@dataclass(frozen=True)
class T:
    """One tensor: `shape` in ggml order (ne[0] first, the contiguous one), `type` by name."""

    name: str
    shape: tuple[int, ...]
    type: str = "F32"

    @property
    def size_bytes(self) -> int:
        _, block, block_bytes = GGML_TYPES[self.type]
        n_elements = 1
        for ne in self.shape:
            n_elements *= ne
        return n_elements // block * block_bytes


def U8(value: int) -> Val:
    return Val("u8", value)


def U32(value: int) -> Val:
    return Val("u32", value)


def I32(value: int) -> Val:
    return Val("i32", value)


def U64(value: int) -> Val:
    return Val("u64", value)


def F32(value: float) -> Val:
    return Val("f32", value)


def header_bytes(
    metadata: Mapping[str, Any] | Iterable[tuple[str, Any]],
    tensors: Sequence[T] = (),
    *,
    version: int = 3,
    order: str = "<",
    alignment: int | None = None,
    offsets: Sequence[int] | None = None,
    n_tensors: int | None = None,
    n_kv: int | None = None,
    pad: bool = True,
) -> bytes:
    """The header, padded to where tensor data starts (`pad=False`: to its last byte).

    Plain Python values are typed as str, bool, u32 (i64 when negative or large) and f32; a
    list becomes an array of its first element's type. `alignment` also writes the
    `general.alignment` key. `order` ">" is big endian. `metadata` may be pairs, to repeat a
    key. `offsets`, `n_tensors` and `n_kv` replace the true numbers, to tell lies.
    """
    pairs = list(metadata.items() if isinstance(metadata, Mapping) else metadata)
    if alignment is not None:
        pairs.append(("general.alignment", U32(alignment)))
    align = next((_plain(v) for k, v in pairs if k == "general.alignment"), DEFAULT_ALIGNMENT)
    count = "I" if version == 1 else "Q"
    out = [
        b"GGUF",
        struct.pack(order + "I", version),
        struct.pack(order + count, len(tensors) if n_tensors is None else n_tensors),
        struct.pack(order + count, len(pairs) if n_kv is None else n_kv),
    ]
    for key, value in pairs:
        out += [_text(key, order, count), _value(value, order, count)]
    if offsets is None:
        offsets = tensor_offsets(tensors, align)
    for tensor, offset in zip(tensors, offsets, strict=True):
        out.append(_text(tensor.name, order, count))
        out.append(struct.pack(order + "I", len(tensor.shape)))
        out.append(struct.pack(f"{order}{len(tensor.shape)}{count}", *tensor.shape))
        out.append(struct.pack(order + "IQ", GGML_TYPES[tensor.type][0], offset))
    blob = b"".join(out)
    return blob + bytes(-len(blob) % align) if pad else blob


def tensor_offsets(tensors: Sequence[T], alignment: int = DEFAULT_ALIGNMENT) -> list[int]:
    """Where each tensor starts, relative to the data section, packed in order."""
    offsets, at = [], 0
    for tensor in tensors:
        offsets.append(at)
        at += tensor.size_bytes + (-tensor.size_bytes) % alignment
    return offsets


def data_bytes(tensors: Sequence[T], alignment: int = DEFAULT_ALIGNMENT) -> int:
    """Size of the data section, the last tensor's padding included."""
    return sum(t.size_bytes + (-t.size_bytes) % alignment for t in tensors)


def write_sparse(
    path: Path, metadata: Mapping[str, Any], tensors: Sequence[T], **header: Any
) -> Path:
    """Write the header, then grow the file to its full size without using disk blocks.

    llama.cpp's own loader reads real shapes from it, whatever the model's size; every weight
    is zero. `header` goes to `header_bytes`. Returns `path`.
    """
    blob = header_bytes(metadata, tensors, **header)
    align = header.get("alignment") or _plain(metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    with path.open("wb") as file:
        file.write(blob)
        file.truncate(len(blob) + data_bytes(tensors, align))
    return path


def _plain(value: Any) -> int:
    return int(value.value if isinstance(value, Val) else value)


def _text(text: str | bytes, order: str, count: str) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(order + count, len(raw)) + raw


def _typed(value: Any) -> Val | Arr:
    """The type a plain Python value is written as."""
    if isinstance(value, Val | Arr):
        return value
    if isinstance(value, bool):
        return Val("bool", value)
    if isinstance(value, int):
        return Val("u32" if 0 <= value < 1 << 32 else "i64", value)
    if isinstance(value, float):
        return Val("f32", value)
    if isinstance(value, str | bytes):
        return Val("str", value)
    if isinstance(value, Sequence):
        first = _typed(value[0]) if value else Val("i32", 0)
        return Arr("arr" if isinstance(first, Arr) else first.kind, value)
    raise TypeError(f"no GGUF type for {value!r}")


def _value(value: Any, order: str, count: str) -> bytes:
    """Type number and value."""
    typed = _typed(value)
    if isinstance(typed, Arr):
        return struct.pack(order + "I", VALUE_TYPES["arr"][0]) + _array(typed, order, count)
    number = struct.pack(order + "I", VALUE_TYPES[typed.kind][0])
    return number + _scalar(typed.kind, typed.value, order, count)


def _scalar(kind: str, value: Any, order: str, count: str) -> bytes:
    if kind == "str":
        return _text(value, order, count)
    return struct.pack(order + VALUE_TYPES[kind][1], value)


def _array(array: Arr, order: str, count: str) -> bytes:
    number, code = VALUE_TYPES[array.kind]
    head = struct.pack(order + "I" + count, number, len(array.values))
    if array.kind == "str":
        return head + b"".join(_text(v, order, count) for v in array.values)
    if array.kind == "arr":
        nested = [v if isinstance(v, Arr) else _typed(v) for v in array.values]
        return head + b"".join(_array(v, order, count) for v in nested if isinstance(v, Arr))
    return head + struct.pack(f"{order}{len(array.values)}{code}", *array.values)
