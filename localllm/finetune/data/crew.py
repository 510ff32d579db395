"""Rows made into tokens by as many hands as the machine has.

Threads begin at once: llama.cpp tokenizes without Python's lock. But chat templates hold it, about
a third of the work, so threads are never more than three times as fast as one. Two were measured
to be 1.8 times, and processes beside them no faster. So only where there are more than three, and
rows keep coming, processes that each hold the vocabulary take over, one a thread as they are
ready; what stays here then (reading, digests, keeping) is some three hundredths of the work.
Whoever makes a row makes it the same, and rows come out in the order they went in.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager

from localllm.errors import EngineError
from localllm.finetune.data.crew_process import Hand
from localllm.finetune.data.dialect import Dialect
from localllm.finetune.data.encoding import Made, make, size_of
from localllm.finetune.data.rows import BadRow, Record
from localllm.finetune.data.spec import Overlong
from localllm.finetune.data.turns import Limits

_BATCH = 16  # rows that are taken at a time
_BATCH_CHARS = 1 << 16
_AHEAD = 4  # batches a thread that are under way
_THREADS = 4  # more tokenizing threads wait for one another
_ENOUGH = 3  # threads that do as well alone
_HANDS = 8  # processes; each has the vocabulary in its memory
_AFTER_S = 2.0  # about what a process takes to be ready: for less work none is started
_HAND_BYTES = 300 << 20  # of memory, with a vocabulary of 262,144 tokens

Row = Record | BadRow


class Crew:
    """`make` for rows in their order. `n_threads` None takes the machine's cores, up to what
    tokenizing can use; 1 does all of it in the thread that asks, without processes."""

    def __init__(
        self, dialect: Dialect, limits: Limits, overlong: Overlong, n_threads: int | None = None
    ) -> None:
        self._dialect, self._limits, self._overlong = dialect, limits, overlong
        self.n_threads = min(_HANDS, n_threads or _cores())
        self._here = threading.Semaphore(_THREADS)
        self._hands: list[Hand] = []
        self._ready: deque[Hand] = deque()
        self._hired = self._closed = False

    def made(self, rows: Iterable[Row]) -> Generator[Made, None, None]:
        """Each row made, in order; once. What reading `rows` raises is raised here in its turn.
        Close the generator where it is not read to its end: it has threads and processes."""
        if self.n_threads < 2:
            yield from map(self._one, rows)
            return
        began = time.perf_counter()
        with ThreadPoolExecutor(self.n_threads, thread_name_prefix="tokenize") as pool:
            pending: deque[Future[list[Made]]] = deque()
            try:
                for batch in _batches(rows):
                    pending.append(pool.submit(self._work, batch))
                    if len(pending) > _AHEAD * self.n_threads:
                        yield from pending.popleft().result()
                        if self._needs_hands(began):
                            self.hire()
                while pending:
                    yield from pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
                self._end()

    def _needs_hands(self, began: float) -> bool:
        is_long = time.perf_counter() - began > _AFTER_S
        return is_long and self.n_threads > _ENOUGH and not self._hired

    def hire(self, *, wait: bool = False) -> None:
        """Start the processes, as many as there is memory for; rows go to those that are ready.
        `wait` until all are, or have failed. Without them threads do all of it."""
        self._hired = True
        n = min(self.n_threads, _available_bytes() // 2 // _HAND_BYTES)
        for _ in range(n):
            try:
                hand = Hand(self._dialect.manner, self._limits, self._overlong)
            except OSError:  # no processes here, or no more
                break
            self._hands.append(hand)
        heralds = [threading.Thread(target=self._herald, args=(h,), daemon=True)
                   for h in self._hands]  # fmt: skip
        for herald in heralds:
            herald.start()
        for herald in heralds if wait else ():
            herald.join()

    def _herald(self, hand: Hand) -> None:
        if hand.is_ready():
            self._ready.append(hand)

    def _end(self) -> None:
        """End the processes, whatever they are at."""
        self._closed = True
        for hand in self._hands:
            hand.close()

    # --- a batch, in a thread ------------------------------------------------------------

    def _one(self, row: Row) -> Made:
        return make(row, self._dialect, self._limits, self._overlong)

    def _work(self, batch: list[Row]) -> list[Made]:
        while (hand := self._take()) is not None:
            try:
                made = hand.make(batch)
            except EngineError:  # it is gone: the next one, or this thread
                continue
            self._ready.append(hand)
            return made
        with self._turn():
            return [self._one(row) for row in batch]

    def _take(self) -> Hand | None:
        try:
            return self._ready.popleft()
        except IndexError:
            return None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One of the few threads that work here at a time."""
        with self._here:
            if self._closed:  # nobody waits for it any more
                raise CancelledError
            yield


def _cores() -> int:
    from localllm.engine.threads import default_threads

    return default_threads()


def _available_bytes() -> int:
    from localllm.placement import this_machine

    return this_machine().host_available_bytes


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    chars = 0
    for row in rows:
        batch.append(row)
        chars += size_of(row)
        if len(batch) >= _BATCH or chars >= _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch
