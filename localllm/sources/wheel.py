"""A wheel looked into from afar: its directory and small members by range reads.

Sizes, names and offsets are the archive's word and are checked before they are used; the
bytes of a member are checked against its CRC when they are read.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from localllm.errors import DamagedFile

ReadAt = Callable[[int, int], bytes]  # start, length -> the bytes, fewer only at the end

_BLOCK_BYTES = 128 << 10  # the first read takes the tail: directory and dist-info of most
_DIRECTORY_LIMIT_BYTES = 16 << 20  # of all that is read to look into one wheel
_RECORD_LIMIT_BYTES = 8 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAX_RATIO = 1040  # deflate cannot expand further (1032:1, and a little for the ends)
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Member:
    """One file inside a wheel. `deflated` False means its bytes lie there as they are."""

    name: str
    deflated: bool
    packed_bytes: int
    size_bytes: int
    crc: int
    header_offset: int


class RangeFile(io.RawIOBase):
    """Bytes elsewhere as a seekable file: whole blocks are read once and kept.

    Raises DamagedFile when more than the limit is asked for (a directory that is a bomb).
    """

    def __init__(self, read_at: ReadAt, size_bytes: int, name: str) -> None:
        super().__init__()
        self._read_at = read_at
        self._size = size_bytes
        self._name = name
        self._position = 0
        self._blocks: dict[int, bytes] = {}

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("before the beginning")  # as files do; zipfile relies on it
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        if count > _DIRECTORY_LIMIT_BYTES:
            raise DamagedFile(f"the directory of {self._name} claims {count} bytes")
        pieces = []
        while count:
            # counted from the end, so that the first read, of the tail, is one whole block
            number = (self._size - 1 - self._position) // _BLOCK_BYTES
            offset = self._position - self._block_start(number)
            piece = self._block(number)[offset : offset + count]
            pieces.append(piece)
            self._position += len(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _block_start(self, number: int) -> int:
        return max(0, self._size - (number + 1) * _BLOCK_BYTES)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            if (len(self._blocks) + 1) * _BLOCK_BYTES > _DIRECTORY_LIMIT_BYTES:
                raise DamagedFile(f"the directory of {self._name} is too large to be one")
            start = self._block_start(number)
            end = self._size - number * _BLOCK_BYTES
            block = self._read_at(start, end - start)
            if len(block) != end - start:
                raise DamagedFile(f"{self._name} ends before its {self._size} bytes")
            self._blocks[number] = block
        return self._blocks[number]


class Archive:
    """A wheel's directory. `members` are its regular files in the directory's order.

    Raises DamagedFile for bytes that are no zip archive.
    """

    def __init__(self, read_at: ReadAt, size_bytes: int, name: str) -> None:
        self.name = name
        self.size_bytes = size_bytes
        try:
            self._zip = zipfile.ZipFile(RangeFile(read_at, size_bytes, name))
        except _ZIP_ERRORS as e:
            raise DamagedFile(f"{name} is no wheel: {_first_line(e)}") from None
        # without names that are empty: zipfile's own is_dir() stumbles over them
        self._infos = {info.filename: info for info in self._zip.infolist() if info.filename}
        self.members = tuple(_member(info) for info in self._infos.values() if not info.is_dir())

    def read(self, name: str, limit_bytes: int) -> bytes:
        """A small member, its CRC checked. Raises DamagedFile, also above the limit."""
        info = self._infos[name]
        _refuse(info, self.name, self.size_bytes)
        if info.file_size > limit_bytes:
            raise DamagedFile(
                f"{name} in {self.name} is {info.file_size} bytes, over {limit_bytes}"
            )
        try:
            return self._zip.read(info)
        except _ZIP_ERRORS as e:
            raise DamagedFile(f"{name} in {self.name} cannot be read: {_first_line(e)}") from None

    def check(self, member: Member) -> None:
        """Raises DamagedFile where a member cannot be what it says it is."""
        _refuse(self._infos[member.name], self.name, self.size_bytes)

    def dist_info(self, file: str) -> str | None:
        """The full name of a file directly in the *.dist-info folder, None without it."""
        for name in self._infos:
            folder, _, rest = name.partition("/")
            if folder.endswith(".dist-info") and rest == file:
                return name
        return None

    def record(self) -> Mapping[str, str]:
        """The sha256 (hex) of each member that RECORD gives one for."""
        name = self.dist_info("RECORD")
        if name is None:
            return {}
        text = self.read(name, _RECORD_LIMIT_BYTES).decode("utf-8", "replace")
        digests = {}
        try:
            for row in csv.reader(io.StringIO(text)):
                if len(row) >= 2 and row[1].startswith("sha256="):
                    digests[row[0]] = _hex_of(row[1][7:], f"RECORD of {self.name}")
        except csv.Error as e:
            raise DamagedFile(f"the RECORD of {self.name} cannot be read: {e}") from None
        return digests


_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,  # zipfile's word for an encrypted member
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    struct.error,
    zlib.error,
)


def _member(info: zipfile.ZipInfo) -> Member:
    return Member(
        info.filename,
        info.compress_type != zipfile.ZIP_STORED,
        info.compress_size,
        info.file_size,
        info.CRC,
        info.header_offset,
    )


def _refuse(info: zipfile.ZipInfo, wheel: str, wheel_bytes: int) -> None:
    what = f"{info.filename[:200]!r} in {wheel}"
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in info.filename or not path.parts:
        raise DamagedFile(f"{what} points outside the archive")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DamagedFile(f"{what} is a symbolic link")
    if info.flag_bits & _ENCRYPTED:
        raise DamagedFile(f"{what} is encrypted")
    if info.compress_type not in _METHODS:
        raise DamagedFile(
            f"{what} is packed by method {info.compress_type}, not stored or deflated"
        )
    if info.header_offset + info.compress_size > wheel_bytes:
        raise DamagedFile(f"{what} reaches past the end of the archive")
    stored = info.compress_type == zipfile.ZIP_STORED
    if info.file_size > info.compress_size * (1 if stored else _MAX_RATIO) + 64:
        raise DamagedFile(f"{what} cannot hold the {info.file_size} bytes it claims")
    if stored and info.file_size != info.compress_size:
        raise DamagedFile(f"{what} is stored, and has two sizes")


def _hex_of(text: str, where: str) -> str:
    try:
        digest = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 32:
        raise DamagedFile(f"the {where} holds a sha256 that is none")
    return digest.hex()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
