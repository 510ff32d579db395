"""Which bytes of one download are on disk, and which connection brings which others."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import HomeUnwritable
from localllm.sources.base import journal_of
from localllm.sources.disk import disk_problem, require_room
from localllm.sources.journal import Extents, Identity, Journal

FOREVER = sys.maxsize  # the end of a file whose size is not known


@dataclass(frozen=True)
class Tuning:
    """Sizes in bytes, times in seconds. The defaults are measured (benchmarks/pull_speed.py)."""

    block_bytes: int = 1 << 20  # one receive and one write
    journal_bytes: int = 4 << 20  # new bytes between two notes in the journal,
    journal_s: float = 1.0  # or this time, whichever is first
    piece_bytes: int = 32 << 20  # what one of several connections asks for at a time
    request_bytes: int = 2 << 30  # what a single one asks for: CDNs refuse answers over 50 GB
    connections: int = 8
    ramp_s: float = 1.0  # how long a speed is measured before more connections are tried
    rest_s: float = 20.0  # how long none are added after one of them met trouble
    fast_bps: float = 250e6  # a connection this fast is not helped by others


@dataclass
class Claim:
    """A range that one connection is bringing. `at` is its first byte not yet on disk."""

    at: int
    end: int


class Ledger:
    """The state of a download that its threads share. Every method may be called by any.

    `finished` is set when there is nothing more to wait for: all there, failed, or stopped.
    """

    def __init__(self, partial: Path, identity: Identity, done: Extents, tuning: Tuning) -> None:
        self.partial = partial
        self.identity = identity
        self.finished = threading.Event()
        self.failure: BaseException | None = None
        self.stopped = False
        self.alone = True  # one connection only: it may claim all there is
        self._tuning = tuning
        self._done = done
        self._claims: list[Claim] = []
        self._changed = threading.Condition()
        self._journal_lock = threading.Lock()
        self._noted_bytes = done.total
        self._noted_s = time.monotonic()
        self._finish_if_complete()

    @property
    def size_bytes(self) -> int | None:
        return self.identity.size_bytes

    @property
    def done_bytes(self) -> int:
        with self._changed:
            return self._done.total

    @property
    def complete(self) -> bool:
        return self.size_bytes is not None and self._done.prefix == self.size_bytes

    def learn(self, etag: str | None, size_bytes: int | None) -> None:
        """Take over what a server says of the file. Raises DiskFull where it cannot fit."""
        with self._changed:
            was_known = self.size_bytes is not None
            self.identity = self.identity.learned(etag, size_bytes)
            if self.size_bytes is None:
                return
            for claim in self._claims:
                claim.end = min(claim.end, self.size_bytes)
            missing = self.size_bytes - self._done.total
            self._finish_if_complete()
        if not was_known:
            require_room(self.partial, missing)

    def claim(self, wait: bool) -> Claim | None:
        """The next range to bring; None when all is done or stopped.

        Where the rest is being brought by others: None, or with `wait` not before that is
        decided, for others may give up what they claimed.
        """
        with self._changed:
            while not self.stopped and not self.complete:
                if claim := self._free():
                    self._claims.append(claim)
                    return claim
                if not wait:
                    return None
                self._changed.wait()
        return None

    def release(self, claim: Claim) -> None:
        """`claim` is brought, or given up: what is left of it is anyone's."""
        with self._changed:
            self._claims.remove(claim)
            self._changed.notify_all()

    def whole(self, claim: Claim) -> None:
        """Let `claim` reach to the end of the file: the server sends it all, asked or not."""
        with self._changed:
            claim.end = FOREVER if self.size_bytes is None else self.size_bytes

    def share(self) -> None:
        """From now on several connections bring pieces: cut long claims short."""
        with self._changed:
            self.alone = False
            for claim in self._claims:
                claim.end = min(claim.end, claim.at + self._tuning.piece_bytes)

    def wrote(self, claim: Claim, count: int) -> bool:
        """`count` more bytes of `claim` are in the file. False when its connection should stop."""
        with self._changed:
            self._done.add(claim.at, claim.at + count)
            claim.at += count
            self._finish_if_complete()
            self._changed.notify_all()
            due = self._due()
            go_on = claim.at < claim.end and not self.stopped
        if due:
            with suppress(HomeUnwritable):  # Windows, while a scanner holds the file: the next
                self.note()
        return go_on

    def wait_beyond(self, position: int) -> int:
        """How far the file is there without a gap, as soon as that is beyond `position`.

        `position` itself when no more will come.
        """
        with self._changed:
            while self._done.prefix <= position and not self.stopped and not self.complete:
                self._changed.wait()
            return max(position, 0 if self.stopped else self._done.prefix)

    def fail(self, error: BaseException) -> None:
        """Stop everyone; the first failure is the one that counts."""
        with self._changed:
            self.failure = self.failure or error
        self.stop()

    def stop(self) -> None:
        with self._changed:
            self.stopped = True
            self.finished.set()
            self._changed.notify_all()

    def note(self) -> None:
        """Write the journal. Raises DiskFull or HomeUnwritable."""
        with self._journal_lock:
            with self._changed:
                self._noted_bytes, self._noted_s = self._done.total, time.monotonic()
                journal = Journal(self.identity, tuple(self._done))
            try:
                journal.save(journal_of(self.partial))
            except OSError as e:
                raise self.disk_problem(e) from e

    def disk_problem(self, error: OSError) -> BaseException:
        size = self.size_bytes
        return disk_problem(error, self.partial, None if size is None else size - self.done_bytes)

    def _due(self) -> bool:
        return (
            self._done.total - self._noted_bytes >= self._tuning.journal_bytes
            or time.monotonic() - self._noted_s >= self._tuning.journal_s
        )

    def _free(self) -> Claim | None:
        """The first gap that nobody brings, cut to what one request should ask for."""
        taken = Extents([*self._done, *((c.at, c.end) for c in self._claims)])
        at = taken.prefix
        following = [start for start, _ in taken if start > at]
        gap_end = following[0] if following else (self.size_bytes or FOREVER)
        if at >= gap_end or self.size_bytes == 0:
            return None
        most = self._tuning.request_bytes if self.alone else self._tuning.piece_bytes
        return Claim(at, gap_end if self.size_bytes is None else min(gap_end, at + most))

    def _finish_if_complete(self) -> None:
        if self.complete:
            self.finished.set()
