"""The bytes of one member of a wheel: by ranges from afar, or streamed from a growing file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from types import ModuleType

from localllm.errors import DamagedFile
from localllm.sources.wheel import Member, ReadAt

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # PKZIP APPNOTE 4.3.7
HEADER_ROOM_BYTES = _LOCAL_HEADER.size + 1024  # with a name and extra fields of usual length
_FIRST_READ_BYTES = 256 << 10
_LONGEST_READ_BYTES = 4 << 20
_OUT_BYTES = 1 << 20


def data_offset(header: bytes, member: Member, wheel: str) -> int:
    """Where a member's bytes begin, from its local header. Raises DamagedFile."""
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise DamagedFile(f"{wheel} has no member where its directory says {member.name}")
    *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(header)
    return member.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)


def _deflate() -> ModuleType:
    """Intel's ISA-L where there is a wheel of it (half as fast again here, measured), else
    zlib; one interface."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


class Inflater:
    """Raw deflate, piece by piece, never more output than the member claims.

    Raises DamagedFile where the stream is broken, too long or too short.
    """

    def __init__(self, member: Member, wheel: str) -> None:
        library = _deflate()
        self._engine = library.decompressobj(wbits=-zlib.MAX_WBITS)
        self._broken: type[Exception] = library.error
        self._member = member
        self._what = f"{member.name} in {wheel}"
        self.out_bytes = 0

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """The output that `packed` gives, in pieces of at most 1 MiB."""
        while True:
            try:
                piece = self._engine.decompress(packed, _OUT_BYTES)
            except self._broken as e:
                raise DamagedFile(f"{self._what} is not what was packed: {e}") from None
            packed = self._engine.unconsumed_tail
            self.out_bytes += len(piece)
            if self.out_bytes > self._member.size_bytes:
                raise DamagedFile(f"{self._what} unpacks to more than the archive says")
            if piece:
                yield piece
            # a full piece may have left more inside the engine, even with no input left
            if self._engine.eof or (not packed and len(piece) < _OUT_BYTES):
                return

    def finish(self) -> None:
        """Raises DamagedFile unless the stream ended, at the size the archive says."""
        if not self._engine.eof or self.out_bytes != self._member.size_bytes:
            raise DamagedFile(f"{self._what} unpacks to fewer bytes than the archive says")


class MemberReader:
    """Any range of a member, read where the wheel lies.

    A stored member costs a range read of its own. A deflated one is inflated from its
    beginning; reads that go forward continue where the last one ended, so reading a header
    in growing pieces unpacks it once. Memory: a few MiB, whatever the size.
    """

    def __init__(self, read_at: ReadAt, member: Member, wheel: str) -> None:
        self._read_at = read_at
        self._member = member
        self._wheel = wheel
        self._data_offset: int | None = None
        self._ahead = b""  # packed bytes already here, from the start of the data
        self._restart()

    def read(self, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`; fewer only at the member's end."""
        length = max(0, min(length, self._member.size_bytes - start))
        if length == 0:
            return b""
        if not self._member.deflated:
            return self._packed(start, length)
        if start < self._position - len(self._kept):
            self._restart()
        return self._inflated(start, length)

    def _restart(self) -> None:
        self._inflater = Inflater(self._member, self._wheel)
        self._pieces: Iterator[bytes] = iter(())
        self._packed_position = 0
        self._position = 0  # of the output: everything before is inflated
        self._kept = b""  # the last piece of it
        self._next_read_bytes = _FIRST_READ_BYTES

    def _inflated(self, start: int, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            begin = self._position - len(self._kept)
            wanted = start + len(found)
            if wanted >= self._position:
                if not self._advance():
                    break
                continue
            found += self._kept[wanted - begin : wanted - begin + length - len(found)]
        return bytes(found)

    def _advance(self) -> bool:
        """Inflate one more piece; False at the end."""
        while (piece := next(self._pieces, None)) is None:
            left = self._member.packed_bytes - self._packed_position
            if left <= 0:
                self._inflater.finish()
                return False
            packed = self._packed(self._packed_position, min(left, self._next_read_bytes))
            self._packed_position += len(packed)
            self._next_read_bytes = min(2 * self._next_read_bytes, _LONGEST_READ_BYTES)
            self._pieces = self._inflater.feed(packed)
        self._kept = piece
        self._position += len(piece)
        return True

    def _packed(self, start: int, length: int) -> bytes:
        if self._data_offset is None:
            self._find_data()
        assert self._data_offset is not None
        if start + length <= len(self._ahead):
            return self._ahead[start : start + length]
        data = self._read_at(self._data_offset + start, length)
        if len(data) != length:
            raise DamagedFile(f"{self._wheel} ends inside {self._member.name}")
        return data

    def _find_data(self) -> None:
        """Read the local header, and with it the first bytes, which are asked for next."""
        member = self._member
        room = min(member.packed_bytes, _FIRST_READ_BYTES) + HEADER_ROOM_BYTES
        head = self._read_at(member.header_offset, room)
        self._data_offset = data_offset(head, member, self._wheel)
        self._ahead = head[self._data_offset - member.header_offset :][: member.packed_bytes]
