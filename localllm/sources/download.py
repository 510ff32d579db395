"""Bring one file from a URL to the disk, whatever the network does meanwhile.

What is promised, each of it held by a test:

- After a kill -9 at most one chunk is fetched again: 4 MiB, or what came within a second, and
  what was in flight. Bytes are written as they arrive; a journal beside the partial names
  them. After a loss of power the journal may know more than the disk: the digest tells, and
  then the file is fetched anew, once.
- The content is one: a size, etag or digest that changed means starting over, with a note.
- Nothing is reported complete before it is verified and flushed to the disk (fsync).
- One connection to begin with. Where it is slow, more are added for as long as that helps
  (many CDNs limit each connection); the trouble of an added one ends only that one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from localllm.errors import ChecksumMismatch, DiskFull, HomeUnwritable, SourceFailed
from localllm.sources.base import Advance, Fetched, journal_of
from localllm.sources.disk import disk_problem, require_room
from localllm.sources.follow import FollowingFlush, FollowingHash
from localllm.sources.journal import Extents, Identity, Journal
from localllm.sources.ledger import Ledger, Tuning
from localllm.sources.stream import StartOver, Stream, Target

_TICK_S = 0.05  # how often progress is told and speed looked at
_LET_GO_S = 5.0  # how long threads that were told to end may take; one may be connecting
_GAIN = 1.15  # more connections must bring this much more to be worth having


def download(target: Target, advance: Advance) -> Fetched:
    """Bring `target` to its partial, verified. Errors are those of `Source.fetch`."""
    notes: list[str] = []
    ledger = _take_up(target, notes)
    starts = 0
    while True:
        starts += 1
        progress = _Progress(advance)
        resumed = ledger.done_bytes
        progress.upto(resumed)
        try:
            digest = _Run(target, ledger, progress).digest()
            if target.sha256 in (None, digest):
                verified = target.sha256 is not None
                return Fetched(ledger.done_bytes, digest, resumed, verified, tuple(notes))
            if not resumed:
                _discard(target)
                raise _mismatch(target, digest)
            reason = StartOver("what an earlier try had left was damaged")
        except StartOver as e:
            reason = e
        if starts > target.patience.attempts:
            raise SourceFailed(f"{target.url} cannot be brought in one go: {reason.note}")
        notes.append(f"{target.partial.name} was started over: {reason.note}")
        progress.upto(0)
        ledger = _afresh(target)


class _Progress:
    """Tells the caller what is new, or taken back."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._told = 0

    def upto(self, done_bytes: int) -> None:
        if done_bytes != self._told:
            news, self._told = done_bytes - self._told, done_bytes
            self._advance(news)


class _Run:
    """One go at a download: connections, hash and progress, until all is there."""

    def __init__(self, target: Target, ledger: Ledger, progress: _Progress) -> None:
        self._target = target
        self._ledger = ledger
        self._progress = progress
        self._hash = FollowingHash(target.partial, ledger)
        self._flusher = FollowingFlush(target.partial, ledger)
        self._streams: list[Stream] = []
        self._ramp = _Ramp(target.tuning, ledger.done_bytes)

    def digest(self) -> str:
        """The sha256 of the complete file. Raises what went wrong, StartOver among it."""
        with self._threads():
            while not self._ledger.finished.wait(_TICK_S):
                done = self._ledger.done_bytes
                self._progress.upto(done)
                self._widen(done)
            self._raise_failure()
            self._progress.upto(self._ledger.done_bytes)
            self._flush()
            digest = self._hash.hexdigest()
            self._raise_failure()
            return digest

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """Hash and leader run inside; outside, whatever happened, nobody writes any more."""
        self._hash.start()
        if not self._ledger.finished.is_set():
            self._flusher.start()
            self._add(leader=True)
        try:
            yield
        finally:
            self._ledger.stop()
            for stream in self._streams:
                stream.abort()
            until = time.monotonic() + _LET_GO_S
            for thread in (*self._streams, self._hash):
                thread.join(max(0.0, until - time.monotonic()))
            if self._flusher.is_alive():
                self._flusher.join()  # it may hold the file open, which Windows minds
            with suppress(DiskFull, HomeUnwritable):  # the older note is good enough
                self._ledger.note()

    def _add(self, leader: bool) -> None:
        stream = Stream(self._target, self._ledger, leader)
        self._streams.append(stream)
        stream.start()

    def _widen(self, done: int) -> None:
        """More connections, where one of them is slow and the server serves ranges."""
        size = self._ledger.size_bytes
        if size is None or not self._target.ranges:
            return
        if any(stream.gave_up for stream in self._streams):
            self._streams = [s for s in self._streams if not s.gave_up]
            self._ramp.rest(len(self._streams), done)
        if size - done < 2 * self._target.tuning.piece_bytes:
            return
        for _ in range(self._ramp.wanted(done) - len(self._streams)):
            self._ledger.share()
            self._add(leader=False)

    def _raise_failure(self) -> None:
        if self._ledger.failure is not None:
            raise self._ledger.failure

    def _flush(self) -> None:
        try:
            with self._target.partial.open("r+b", buffering=0) as file:
                os.fsync(file.fileno())
        except OSError as e:
            raise self._ledger.disk_problem(e) from e


class _Ramp:
    """How many connections are worth having, from the speeds seen so far."""

    def __init__(self, tuning: Tuning, done: int) -> None:
        self._tuning = tuning
        self._count = 1
        self._since_s = time.monotonic()
        self._since_bytes = done
        self._before_bps: float | None = None
        self._settled = False

    def rest(self, count: int, done: int) -> None:
        """`count` connections are left of those there were: no more for a while."""
        self._count = count
        self._since_s = time.monotonic() + self._tuning.rest_s
        self._since_bytes = done
        self._before_bps = None

    def wanted(self, done: int) -> int:
        """Doubled after each interval that brought more than the one before, up to the limit."""
        now = time.monotonic()
        if now < self._since_s:
            self._since_bytes = done  # at rest: the speed is measured from its end
        if self._settled or now - self._since_s < self._tuning.ramp_s:
            return self._count
        bps = (done - self._since_bytes) / (now - self._since_s)
        self._since_s, self._since_bytes = now, done
        no_gain = self._before_bps is not None and bps < _GAIN * self._before_bps
        if bps >= self._tuning.fast_bps or no_gain or self._count >= self._tuning.connections:
            self._settled = True
            return self._count
        self._before_bps = bps
        self._count = min(2 * self._count, self._tuning.connections)
        return self._count


def _take_up(target: Target, notes: list[str]) -> Ledger:
    """The ledger of what an earlier try has left, or of nothing."""
    identity = Identity(target.url, target.expected_bytes, target.sha256)
    try:
        stat = target.partial.stat()
    except FileNotFoundError:
        return _afresh(target)
    except OSError as e:
        raise disk_problem(e, target.partial, None) from e
    journal = Journal.load(journal_of(target.partial))
    if journal is None or stat.st_nlink > 1:  # a link to a finished file is never written to
        return _afresh(target)
    there = stat.st_size
    conflict = journal.identity.conflict(identity)
    known = identity.learned(journal.identity.etag, journal.identity.size_bytes)
    if conflict is None and known.size_bytes is not None and there > known.size_bytes:
        conflict = "what was there is longer than the file"
    if conflict is not None:
        notes.append(f"{target.partial.name} was started over: {conflict}")
        return _afresh(target)
    done = Extents(journal.done).clipped(there)
    if known.size_bytes is not None:
        # What is there is overwritten where the journal does not know of it: it needs no room.
        taken = getattr(stat, "st_blocks", done.total // 512) * 512
        require_room(target.partial, known.size_bytes - max(done.total, taken))
    return _noted(Ledger(target.partial, known, done, target.tuning))


def _afresh(target: Target) -> Ledger:
    identity = Identity(target.url, target.expected_bytes, target.sha256)
    try:
        target.partial.parent.mkdir(parents=True, exist_ok=True)
        target.partial.unlink(missing_ok=True)  # rather than truncate what may be a link
        target.partial.touch()
    except OSError as e:
        raise disk_problem(e, target.partial, target.expected_bytes) from e
    require_room(target.partial, target.expected_bytes or 0)
    return _noted(Ledger(target.partial, identity, Extents(), target.tuning))


def _noted(ledger: Ledger) -> Ledger:
    ledger.note()
    return ledger


def _discard(target: Target) -> None:
    target.partial.unlink(missing_ok=True)
    journal_of(target.partial).unlink(missing_ok=True)


def _mismatch(target: Target, digest: str) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"{target.url} arrived with sha256 {digest}, its source published {target.sha256}",
        "what arrived was deleted; pull again, and if it happens again tell the publisher",
    )
