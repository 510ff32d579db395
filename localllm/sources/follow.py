"""Threads that follow a file while connections fill it: its sha256, its way to the disk."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path

from localllm.sources.ledger import Ledger

_BLOCK_BYTES = 1 << 20
_FLUSH_BYTES = 128 << 20
_FLUSH_TICK_S = 0.1


class FollowingHash(threading.Thread):
    """Hashes the file from its start, close behind the connections that fill it.

    It reads what was written back from the file, out of the page cache: that costs a tenth of
    hashing, and makes what an earlier try left, and what several connections bring out of
    order, no different from bytes just received. hashlib and reads release the GIL.
    """

    def __init__(self, partial: Path, ledger: Ledger) -> None:
        super().__init__(name="sha256", daemon=True)
        self._partial = partial
        self._ledger = ledger
        self._digest = hashlib.sha256()

    def run(self) -> None:
        try:
            self._follow()
        except BaseException as e:  # noqa: BLE001  raised in the thread that waits
            self._ledger.fail(e)

    def hexdigest(self) -> str:
        """The digest of the whole file; waits for it."""
        while self.is_alive():
            self.join(0.1)  # in steps: Ctrl-C reaches no longer wait on Windows
        return self._digest.hexdigest()

    def _follow(self) -> None:
        buffer = bytearray(_BLOCK_BYTES)
        view = memoryview(buffer)
        position = 0
        with self._partial.open("rb", buffering=0) as file:
            while (there := self._ledger.wait_beyond(position)) > position:
                while position < there and not self._ledger.stopped:
                    count = file.readinto(view[: min(_BLOCK_BYTES, there - position)])
                    if not count:
                        raise self._ledger.disk_problem(OSError("it was cut short meanwhile"))
                    self._digest.update(view[:count])
                    position += count


class FollowingFlush(threading.Thread):
    """Sends the file to the disk while the rest still comes.

    Left to the system, a fast download would lie in memory whole, and the fsync at its end be
    a long silence. An optimisation only: the fsync that counts comes at the end, and its errors.
    """

    def __init__(self, partial: Path, ledger: Ledger) -> None:
        super().__init__(name="flush", daemon=True)
        self._partial = partial
        self._ledger = ledger

    def run(self) -> None:
        flush = getattr(os, "fdatasync", os.fsync)  # macOS and Windows have no fdatasync
        flushed = self._ledger.done_bytes
        with suppress(OSError), self._partial.open("r+b", buffering=0) as file:
            while not self._ledger.finished.wait(_FLUSH_TICK_S):
                if (done := self._ledger.done_bytes) - flushed >= _FLUSH_BYTES:
                    flushed = done
                    flush(file.fileno())
