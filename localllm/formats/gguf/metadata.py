"""The metadata of a GGUF header as a mapping that decodes a value when it is asked for."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.formats.gguf.index import Entry
from localllm.formats.gguf.types import VALUE_CODES, ValueType

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """What is known of a value without decoding it. `length`: elements of an array, else 1."""

    type: ValueType
    element_type: ValueType | None
    length: int
    size_bytes: int


class Metadata(Mapping[str, Value]):
    """Keys in file order. Arrays come as tuples, decoded anew at each access: keep what you
    need. Text that is not UTF-8 has U+FFFD in place of the bytes that are not (`raw` has
    them); llama.cpp does not check text either.
    """

    def __init__(self, raw: bytes, entries: dict[str, Entry], order: str, version: int) -> None:
        self._raw = raw
        self._entries = entries
        self._order = order
        self._length = struct.Struct(order + ("I" if version == 1 else "Q"))

    def __getitem__(self, key: str) -> Value:
        entry = self._entries[key]
        if entry.element_type is not None:
            return self._decode(entry.element_type, entry.length, entry)
        value: Value = self._decode(entry.type, 1, entry)[0]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def info(self, key: str) -> ValueInfo:
        """Type and size of a value, undecoded. Raises KeyError."""
        entry = self._entries[key]
        size = entry.end - entry.value_start
        return ValueInfo(entry.type, entry.element_type, entry.length, size)

    def raw(self, key: str) -> bytes:
        """The value's bytes as they are in the file (of an array: its elements)."""
        entry = self._entries[key]
        return self._raw[entry.value_start : entry.end]

    def head(self, key: str, n: int) -> tuple[Any, ...]:
        """The first `n` elements of an array, without decoding the rest."""
        entry = self._entries[key]
        return self._decode(entry.element_type or entry.type, min(n, entry.length), entry)

    def after_nul_bytes(self, key: str) -> int:
        """Bytes of a text, or of an array of texts, from the first NUL of each on: what C strings
        lose. Decodes nothing."""
        entry = self._entries[key]
        raw, unpack, width = self._raw, self._length.unpack_from, self._length.size
        array = entry.element_type is not None
        n, pos, lost = entry.length if array else 1, entry.value_start, 0
        for _ in range(n):
            start = pos + width
            pos = start + unpack(raw, pos)[0]
            at = raw.find(0, start, pos)
            if at >= 0:
                lost += pos - at
        return lost

    def _decode(self, kind: ValueType, n: int, entry: Entry) -> tuple[Any, ...]:
        if kind is ValueType.STRING:
            return tuple(self._strings(n, entry.value_start))
        layout = f"{self._order}{n}{VALUE_CODES[kind]}"
        return struct.unpack_from(layout, self._raw, entry.value_start)

    def _strings(self, n: int, pos: int) -> Sequence[str]:
        raw, unpack, width = self._raw, self._length.unpack_from, self._length.size
        out = []
        for _ in range(n):
            start = pos + width
            pos = start + unpack(raw, pos)[0]
            out.append(raw[start:pos].decode(errors="replace"))
        return out
