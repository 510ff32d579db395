"""Whether what was read from an index still stands, told from its files without opening them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localllm.registry.database import Database

# File systems count time in steps: of a file that was written less than this before it was read,
# a later change may show the same time and size.
_STEP_S = 0.1
_LONGEST_S = 1.0  # for disks that show the times of open files late (Windows, network)

_Looks = tuple[tuple[int, int, int] | None, ...]


class Freshness:
    """Of one reading. To ask whether it `holds` takes microseconds, and what any process has
    changed since is seen at once."""

    def __init__(self, database: Database) -> None:
        path = database.path
        self._files = (path, path.with_name(path.name + "-wal"))
        self.forget()

    def forget(self) -> None:
        self._looks: _Looks | None = None
        self._until = 0.0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around the reading; one that fails is none."""
        self.forget()
        looks, now = self._look(), time.monotonic()
        newest_s = max((one[2] / 1e9 for one in looks if one is not None), default=0.0)
        # A time in the future, by another machine's clock, proves nothing either.
        settled = newest_s + _STEP_S < time.time()
        yield
        self._looks, self._until = looks if settled else None, now + _LONGEST_S

    def holds(self) -> bool:
        if self._looks is None or time.monotonic() > self._until:
            return False
        return self._look() == self._looks

    def _look(self) -> _Looks:
        return tuple(map(_looks_of, self._files))


def _looks_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # An empty one is as good as none: readers make the -wal file where there is none.
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found.st_size else None
