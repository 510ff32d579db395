"""The header of a GGUF that keeps another one's metadata and holds other tensors.

Pairs that stay are copied byte for byte: a vocabulary comes out as it went in, bytes that are
no UTF-8 included.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from localllm.errors import UsageProblem
from localllm.formats.gguf.edit import Encoder
from localllm.formats.gguf.header import GGUFHeader
from localllm.formats.gguf.index import index_header
from localllm.formats.gguf.metadata import Scalar
from localllm.formats.gguf.types import VALUE_CODES, GGMLType, ValueType

# A file that stands alone says nothing of shards.
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written; `shape` in ggml order (the contiguous dimension first)."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) // self.type.block_elements * self.type.block_bytes


@dataclass(frozen=True)
class NewHeader:
    """The bytes before the tensors, and where each tensor goes (absolute offsets)."""

    raw: bytes  # padded: tensor data follows at once
    tensors: tuple[NewTensor, ...]
    offsets: tuple[int, ...]
    alignment: int

    @property
    def file_bytes(self) -> int:
        """Size of the whole file; the last tensor is padded too, as llama.cpp writes it."""
        if not self.tensors:
            return len(self.raw)
        end = self.offsets[-1] + self.tensors[-1].size_bytes
        return end + -end % self.alignment


def new_header(
    source: GGUFHeader,
    tensors: Sequence[NewTensor],
    *,
    set: Mapping[str, Scalar | Sequence[Scalar]],
    remove: Collection[str] = (),
    raw_arrays: Mapping[str, bytes] | None = None,
) -> NewHeader:
    """`source`'s metadata with the keys of `set` added or replaced and those of `remove` (and of
    a split) gone, before `tensors` in this order.

    `raw_arrays` replaces the elements of an array by bytes of whole elements of its own type.
    Values are typed as in `copy_with_metadata`. Raises UsageProblem for a file in another byte
    order or of version 1, neither of which llama.cpp reads.
    """
    if source.big_endian or source.version < 2:
        raise UsageProblem(f"{source.name} is in a form of GGUF that llama.cpp does not read")
    index = index_header(source.raw, None, source.name)
    encode = Encoder(index.order, index.version)
    gone = {*remove, *SPLIT_KEYS}
    kept = {key: entry for key, entry in index.entries.items() if key not in gone}
    body = bytearray()
    for key, entry in kept.items():
        if key in set:
            body += encode.pair(key, set[key], entry.element_type or entry.type)
        elif raw_arrays and key in raw_arrays:
            assert entry.element_type is not None
            body += _array(encode, key, entry.element_type, raw_arrays[key])
        else:
            body += source.raw[entry.pair_start : entry.end]
    added = [key for key in set if key not in kept]
    for key in added:
        body += encode.pair(key, set[key], None)
    count = encode.count.pack
    start = source.raw[:8] + count(len(tensors)) + count(len(kept) + len(added))
    return laid_out(start + body, tensors, encode, index.alignment)


def _array(encode: Encoder, key: str, kind: ValueType, elements: bytes) -> bytes:
    length = len(elements) // struct.calcsize("=" + VALUE_CODES[kind])
    head = encode.number(ValueType.ARRAY) + encode.number(kind) + encode.count.pack(length)
    return encode.text(key) + head + elements


def laid_out(
    head: bytes, tensors: Sequence[NewTensor], encode: Encoder, alignment: int
) -> NewHeader:
    """The header that begins with `head` (preamble and metadata), `tensors` in this order."""
    infos, relative, at = bytearray(), [], 0
    for tensor in tensors:
        infos += encode.text(tensor.name) + encode.number(len(tensor.shape))
        infos += b"".join(encode.count.pack(n) for n in tensor.shape)
        infos += encode.number(tensor.type.id) + struct.pack(encode.order + "Q", at)
        relative.append(at)
        at += tensor.size_bytes
        at += -at % alignment
    raw = bytes(head + infos)
    raw += bytes(-len(raw) % alignment)
    return NewHeader(raw, tuple(tensors), tuple(len(raw) + o for o in relative), alignment)
