"""A file that goes to the disk while it is still written, and hashed.

Left to the system, what is written fast lies in memory whole, and the fsync at its end takes as
long as much of the rest.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from localllm.closing import Closing

_EVERY_BYTES = 128 << 20


class WriteBack(Closing):
    """Flushes `path` from a thread each time another 128 MiB of it were written, if the flush
    before is over. Somebody else writes it; it need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write back")
        self._running: Future[None] | None = None
        self._unsaid: OSError | None = None
        self._waiting_bytes = 0

    def wrote(self, n_bytes: int) -> None:
        """Another so many."""
        self._waiting_bytes += n_bytes
        idle = self._running is None or self._running.done()
        if self._waiting_bytes >= _EVERY_BYTES and idle:
            self.begin()

    def begin(self) -> None:
        """Flush what is there, without waiting."""
        self._waiting_bytes = 0
        self._running = self._pool.submit(self._flush)

    def wait(self) -> None:
        """For the flushes begun. Raises what any of them met: the system tells of an error once,
        so a flush after this one would not hear of it."""
        self._pool.shutdown()
        if self._unsaid is not None:
            raise self._unsaid

    def close(self) -> None:
        self._pool.shutdown()

    def _flush(self) -> None:
        try:
            sync(self._path)
        except FileNotFoundError:
            pass  # not begun, or the first of several shards
        except OSError as error:
            self._unsaid = self._unsaid or error


def sync(path: Path) -> None:
    """Have the bytes on the disk before a name says that they are there. Raises OSError."""
    with path.open("rb+", buffering=0) as file:
        os.fsync(file.fileno())
