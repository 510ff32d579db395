"""One pass over a GGUF header that records where everything is and believes nothing.

Nothing is decoded here but names and sizes: a vocabulary of 262,144 strings is hopped over,
length by length. No allocation follows a claimed count; a claim that the file's bytes
cannot hold is damage. The format: ggml's `docs/gguf.md`; where that and llama.cpp's own
reader (`gguf.cpp`) differ, the stricter rule of the two holds: what passes here is not
refused there for its header, version 1 apart, which llama.cpp has given up.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import repeat
from mmap import mmap
from typing import NamedTuple, NoReturn

from localllm.errors import DamagedFile
from localllm.formats.gguf.types import GGML_TYPES, VALUE_CODES, GGMLType, ValueType
from localllm.formats.prefix import DAMAGED_HINT, NeedMoreBytes

Buffer = bytes | bytearray | memoryview | mmap

# The largest real headers (262k tokens with merges) are under 20 MB. A header is kept in
# memory, so its size must have an end.
HEADER_LIMIT_BYTES = 128 * 1024 * 1024
COUNT_LIMIT = 1 << 18  # keys, and tensors; real models have a few thousand at most
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_TENSOR_NAME = 63  # GGML_MAX_NAME less the terminating zero
MAX_KEY = 65535
DEFAULT_ALIGNMENT = 32
INT64_MAX = 2**63 - 1


class Entry(NamedTuple):
    """Where one metadata pair is. Offsets count from the start of the file."""

    type: ValueType
    element_type: ValueType | None  # of an array
    length: int  # elements of an array, 1 otherwise
    pair_start: int  # the key's length field
    value_start: int  # the first byte of the value (of an array: of its first element)
    end: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` is in ggml order (ne[0], the contiguous one, first); `offset` is
    in bytes from the start of the file's data section."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int
    size_bytes: int
    n_elements: int

    @property
    def type_name(self) -> str:
        return self.type.name


@dataclass(frozen=True, slots=True)
class HeaderIndex:
    """What the pass found. `infos_start` is where the tensor infos begin, `infos_end` where
    they end; `data_offset` is `infos_end` padded to the alignment."""

    version: int
    order: str  # struct's "<" or ">"
    alignment: int
    entries: dict[str, Entry]
    tensors: dict[str, TensorInfo]
    infos_start: int
    infos_end: int
    data_offset: int


def index_header(buffer: Buffer, total_size: int | None, name: str) -> HeaderIndex:
    """Walk the header in `buffer`, the first bytes of a file of `total_size` bytes.

    `total_size` None: the size is not known, and what depends on it is not checked. `name`
    begins the message of every error. Raises DamagedFile, and NeedMoreBytes when the buffer
    ends before the header does.
    """
    walker = _Walker(buffer, total_size, name)
    return walker.walk()


def shown(key: str) -> str:
    """A key from a file as it goes into a message: quoted, escaped, and short."""
    return repr(key if len(key) <= 60 else key[:57] + "...")


class _Walker:
    def __init__(self, buffer: Buffer, total_size: int | None, name: str) -> None:
        self.buffer = buffer
        self.available = len(buffer) if total_size is None else min(len(buffer), total_size)
        self.total = total_size
        self.name = name
        self.pos = 0
        self.order = "<"
        self.u32 = struct.Struct("<I")
        self.count = struct.Struct("<Q")  # of strings, arrays, dimensions

    def walk(self) -> HeaderIndex:
        version, n_tensors, n_kv = self._preamble()
        entries = self._entries(n_kv)
        alignment = self._alignment(entries)
        infos_start = self.pos
        tensors = self._tensors(n_tensors)
        infos_end = self.pos
        data_offset = infos_end + (-infos_end % alignment if n_tensors else 0)
        self._check_extents(tensors, alignment, data_offset)
        return HeaderIndex(
            version, self.order, alignment, entries, tensors, infos_start, infos_end, data_offset
        )

    # --- reading ------------------------------------------------------------------------

    def damaged(self, what: str) -> NoReturn:
        raise DamagedFile(f"{self.name}: {what}", DAMAGED_HINT)

    def need(self, end: int, what: str) -> None:
        """Make sure that the buffer reaches to `end`, the least end of `what`."""
        if end <= self.available and end <= HEADER_LIMIT_BYTES:
            return
        if self.total is not None and end > self.total:
            self.damaged(f"cut short or lying: {what} would end past the file's {self.total} bytes")
        if end > HEADER_LIMIT_BYTES:
            self.damaged(f"{what} makes the header larger than {HEADER_LIMIT_BYTES} bytes")
        raise NeedMoreBytes(end)

    def number(self, layout: struct.Struct, what: str) -> int:
        self.need(self.pos + layout.size, what)
        (value,) = layout.unpack_from(self.buffer, self.pos)
        self.pos += layout.size
        return int(value)

    def text(self, limit: int, what: str) -> str:
        """A key or a name: these must be UTF-8, everything else hangs on them."""
        length = self.number(self.count, what)
        if not 0 < length <= limit:
            self.damaged(f"{what} is {length} bytes long, not 1 to {limit}")
        self.need(self.pos + length, what)
        raw = bytes(self.buffer[self.pos : self.pos + length])
        self.pos += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.damaged(f"{what} is not UTF-8: {raw[:40]!r}")

    # --- the parts ----------------------------------------------------------------------

    def _preamble(self) -> tuple[int, int, int]:
        """Version, number of tensors, number of metadata pairs."""
        self.need(8, "the magic number and version")
        magic = bytes(self.buffer[:4])
        if magic != b"GGUF":
            self.damaged(f"not a GGUF file: it begins with {magic!r}")
        (version,) = self.u32.unpack_from(self.buffer, 4)
        if version & 0xFFFF == 0:  # the other byte order, by llama.cpp's rule
            self.order = ">"
            self.u32 = struct.Struct(">I")
            (version,) = self.u32.unpack_from(self.buffer, 4)
        if version not in (1, 2, 3):
            self.damaged(f"GGUF version {version} is unknown (1 to 3 are)")
        self.count = struct.Struct(self.order + ("I" if version == 1 else "Q"))
        self.pos = 8
        n_tensors = self.number(self.count, "the number of tensors")
        n_kv = self.number(self.count, "the number of keys")
        for n, what in ((n_tensors, "tensors"), (n_kv, "keys")):
            if n > COUNT_LIMIT:
                self.damaged(f"it claims {n} {what}; more than {COUNT_LIMIT} is no model")
        return version, n_tensors, n_kv

    def _entries(self, n_kv: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for i in range(n_kv):
            start = self.pos
            key = self.text(MAX_KEY, f"key {i}")
            if key in entries:
                self.damaged(f"the key {shown(key)} appears twice")
            entries[key] = self._entry(key, start)
        return entries

    def _entry(self, key: str, start: int) -> Entry:
        kind = self._value_type(key)
        if kind is not ValueType.ARRAY:
            at = self.pos
            self._skip(kind, 1, key)
            return Entry(kind, None, 1, start, at, self.pos)
        element = self._value_type(key)
        if element is ValueType.ARRAY:
            # llama.cpp refuses these too, and no known key has one
            self.damaged(f"{shown(key)} is an array of arrays")
        length = self.number(self.count, f"the length of {shown(key)}")
        at = self.pos
        self._skip(element, length, key)
        return Entry(kind, element, length, start, at, self.pos)

    def _value_type(self, key: str) -> ValueType:
        number = self.number(self.u32, f"the type of {shown(key)}")
        if number > ValueType.F64:
            self.damaged(f"{shown(key)} has the unknown value type {number}")
        return ValueType(number)

    def _skip(self, kind: ValueType, n: int, key: str) -> None:
        """Hop over `n` values of a type."""
        if kind is ValueType.STRING:
            self._skip_strings(n, key)
            return
        end = self.pos + n * struct.calcsize("=" + VALUE_CODES[kind])
        self.need(end, f"the value of {shown(key)}")
        self.pos = end

    def _skip_strings(self, n: int, key: str) -> None:
        what = f"the value of {shown(key)}"
        width = self.count.size
        self.need(self.pos + n * width, what)  # every string has a length field
        pos, buffer, unpack = self.pos, self.buffer, self.count.unpack_from
        try:
            for _ in repeat(None, n):
                pos += width + unpack(buffer, pos)[0]
        except (struct.error, OverflowError):  # pos is past the buffer, or past ssize_t
            self.need(pos + width, what)
            raise
        self.need(pos, what)
        self.pos = pos

    def _alignment(self, entries: dict[str, Entry]) -> int:
        entry = entries.get("general.alignment")
        if entry is None:
            return DEFAULT_ALIGNMENT
        if entry.type is not ValueType.U32:
            self.damaged(f"general.alignment is of type {entry.type.name}, not U32")
        (alignment,) = self.u32.unpack_from(self.buffer, entry.value_start)
        if alignment == 0 or alignment & (alignment - 1):
            self.damaged(f"general.alignment is {alignment}, not a power of two")
        return int(alignment)

    def _tensors(self, n_tensors: int) -> dict[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        # at least: the name's length and one byte, the number of dimensions, type, offset
        least = self.count.size + 1 + 4 + 4 + 8
        self.need(self.pos + n_tensors * least, "the list of tensors")
        for i in range(n_tensors):
            tensor = self._tensor(i)
            if tensor.name in tensors:
                self.damaged(f"the tensor {tensor.name!r} appears twice")
            tensors[tensor.name] = tensor
        return tensors

    def _tensor(self, i: int) -> TensorInfo:
        name = self.text(MAX_TENSOR_NAME, f"the name of tensor {i}")
        what = f"tensor {name!r}"
        n_dims = self.number(self.u32, what)
        if n_dims > MAX_DIMS:
            self.damaged(f"{what} has {n_dims} dimensions, more than {MAX_DIMS}")
        width = self.count.size
        end = self.pos + n_dims * width + 4 + 8
        self.need(end, what)
        code = "I" if width == 4 else "Q"
        *shape, type_id, offset = struct.unpack_from(
            f"{self.order}{n_dims}{code}IQ", self.buffer, self.pos
        )
        self.pos = end
        kind = GGML_TYPES.get(type_id)
        if kind is None:
            self.damaged(f"{what} has ggml type {type_id}, which this version does not know")
        n_elements = self._elements(shape, kind, what)
        size = n_elements // kind.block_elements * kind.block_bytes
        return TensorInfo(name, tuple(shape), kind, offset, size, n_elements)

    def _elements(self, shape: list[int], kind: GGMLType, what: str) -> int:
        n = 1
        for ne in shape:
            n *= ne
            if ne == 0:
                self.damaged(f"{what} has a dimension of 0")
            if n > INT64_MAX:
                self.damaged(f"{what} claims more elements than 64 bits can count: {tuple(shape)}")
        row = shape[0] if shape else 1
        if row % kind.block_elements:
            self.damaged(
                f"{what} has rows of {row}, not a multiple of {kind.name}'s {kind.block_elements}"
            )
        return n

    def _check_extents(
        self, tensors: dict[str, TensorInfo], alignment: int, data_offset: int
    ) -> None:
        """Tensors follow each other in the order of the list, padded, and end in the file."""
        expected = end = 0
        for tensor in tensors.values():
            if tensor.offset != expected:
                fault = "overlaps the one before" if tensor.offset < expected else "leaves a gap"
                self.damaged(
                    f"tensor {tensor.name!r} starts at {tensor.offset} and not at {expected}: "
                    f"it {fault}, and llama.cpp loads neither"
                )
            end = expected + tensor.size_bytes
            expected = end + -end % alignment
        if self.total is not None and tensors and data_offset + end > self.total:
            self.damaged(
                f"cut short: its tensors end at byte {data_offset + end}, the file has {self.total}"
            )
