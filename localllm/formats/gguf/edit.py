"""A GGUF file with other metadata: every other byte is copied as it is."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import BinaryIO

from localllm.errors import UsageProblem
from localllm.formats.gguf.header import GGUFHeader
from localllm.formats.gguf.index import MAX_KEY, HeaderIndex, index_header
from localllm.formats.gguf.metadata import Scalar
from localllm.formats.gguf.read import read_header
from localllm.formats.gguf.types import INTEGER_RANGES, VALUE_CODES, ValueType

Advance = Callable[[int], None]
BLOCK_BYTES = 8 * 1024 * 1024
VALUES_ALLOWED = "metadata is text, a number or true/false, or a list of one of them"
FLOAT32_MAX = (2 - 2**-23) * 2.0**127


def copy_with_metadata(
    src: Path,
    dst: Path,
    *,
    set: Mapping[str, Scalar | Sequence[Scalar]],
    remove: Collection[str] = (),
    advance: Advance = lambda n_bytes: None,
) -> None:
    """Write `src` to `dst` with the keys of `set` added or replaced and those of `remove` gone.

    Tensor infos and tensor data are copied byte for byte, other keys too; new keys come
    last. Numbers keep the type that the key had, if the value fits; otherwise a whole number
    is u32, or the first of i32, u64, i64 that holds it, and another number f32. Sequences
    are arrays of one type. Reads and writes in 8 MiB blocks; `advance` is told the bytes.

    `dst` is a temporary name of the caller's, on which it puts the final name when this
    returns: the bytes are then on the disk. On any failure `dst` is removed. Raises
    DamagedFile, FileGone, OSError, and UsageProblem for a value that has no GGUF type, for
    `general.alignment` (data would have to move), and if `dst` is `src`.
    """
    if "general.alignment" in {*set, *remove}:
        raise UsageProblem("general.alignment cannot be changed: tensor offsets depend on it")
    if dst.exists() and dst.samefile(src):
        raise UsageProblem(f"{src} cannot be copied onto itself")
    header = read_header(src)
    index = index_header(header.raw, None, header.name)
    head = _edited_header(header, index, set, remove)
    try:
        with src.open("rb") as source, dst.open("wb") as target:
            target.write(head)
            advance(len(head))
            source.seek(header.data_offset)
            _copy_rest(source, target, advance)
            target.flush()
            os.fsync(target.fileno())
    except BaseException:  # Ctrl-C too: nothing half-written is left behind
        dst.unlink(missing_ok=True)
        raise


def _copy_rest(source: BinaryIO, target: BinaryIO, advance: Advance) -> None:
    block = memoryview(bytearray(BLOCK_BYTES))
    while n := source.readinto(block):  # type: ignore[attr-defined]
        target.write(block[:n])
        advance(n)


def _edited_header(
    header: GGUFHeader,
    index: HeaderIndex,
    changes: Mapping[str, Scalar | Sequence[Scalar]],
    remove: Collection[str],
) -> bytes:
    encode = Encoder(index.order, index.version)
    raw, out = header.raw, bytearray()
    kept = {key: entry for key, entry in index.entries.items() if key not in remove}
    for key, entry in kept.items():
        if key in changes:
            out += encode.pair(key, changes[key], entry.element_type or entry.type)
        else:
            out += raw[entry.pair_start : entry.end]
    added = [key for key in changes if key not in kept]
    for key in added:
        out += encode.pair(key, changes[key], None)
    start = (
        raw[:8] + encode.count.pack(len(index.tensors)) + encode.count.pack(len(kept) + len(added))
    )
    body = start + out + raw[index.infos_start : index.infos_end]
    return body + bytes(-len(body) % index.alignment if index.tensors else 0)


class Encoder:
    """Values as bytes in a file's byte order and version."""

    def __init__(self, order: str, version: int) -> None:
        self.order = order
        self.count = struct.Struct(order + ("I" if version == 1 else "Q"))

    def pair(self, key: str, value: Scalar | Sequence[Scalar], previous: ValueType | None) -> bytes:
        """Key, type and value. `previous` is the (element) type the key had."""
        if not 0 < len(key.encode(errors="replace")) <= MAX_KEY:
            raise UsageProblem(f"a metadata key has 1 to {MAX_KEY} bytes, not {len(key)}")
        if isinstance(value, str | bool | int | float):
            kind = _value_type(key, [value], previous)
            return self.text(key) + self.number(kind) + self.scalar(kind, value)
        if not isinstance(value, Sequence):
            raise UsageProblem(f"{key}: {VALUES_ALLOWED}, not {type(value).__name__}")
        elements = list(value)
        kind = _value_type(key, elements, previous)
        head = self.number(ValueType.ARRAY) + self.number(kind) + self.count.pack(len(elements))
        return self.text(key) + head + b"".join(self.scalar(kind, v) for v in elements)

    def number(self, value: int) -> bytes:
        return struct.pack(self.order + "I", value)

    def text(self, value: str) -> bytes:
        # surrogates stand for bytes of a command line that are not UTF-8: give those back
        raw = value.encode(errors="surrogateescape")
        return self.count.pack(len(raw)) + raw

    def scalar(self, kind: ValueType, value: Scalar) -> bytes:
        if kind is ValueType.STRING:
            return self.text(str(value))
        return struct.pack(self.order + VALUE_CODES[kind], value)


def _value_type(key: str, values: Sequence[object], previous: ValueType | None) -> ValueType:
    """The one type that holds all `values`, the previous one where it can."""
    if all(isinstance(v, str) for v in values):  # an empty array is one of strings
        return ValueType.STRING
    if all(isinstance(v, bool) for v in values):
        return ValueType.BOOL
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        raise UsageProblem(f"{key}: {VALUES_ALLOWED}")
    if any(isinstance(v, float) for v in numbers) or previous in (ValueType.F32, ValueType.F64):
        large = any(FLOAT32_MAX < abs(v) < inf for v in numbers)
        return ValueType.F64 if large or previous is ValueType.F64 else ValueType.F32
    preferred = [previous] if previous in INTEGER_RANGES else []
    for kind in (*preferred, ValueType.U32, ValueType.I32, ValueType.U64, ValueType.I64):
        least, most = INTEGER_RANGES[kind]
        if all(least <= v <= most for v in numbers):
            return kind
    raise UsageProblem(f"{key}: {numbers} do not fit in 64 bits")
