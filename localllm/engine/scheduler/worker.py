"""The thread that computes: takes requests in, steps, and survives what single requests do."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from localllm.engine.scheduler.load import Load
from localllm.engine.scheduler.loop import StepLoop
from localllm.engine.scheduler.request import Busy, Event, Stopped
from localllm.engine.scheduler.sample import Sample
from localllm.engine.scheduler.slot import Job
from localllm.errors import EngineError, Interrupted, LocalLLMError


class Worker:
    """One thread, one context. The lock guards what other threads touch; it is never held
    while computing."""

    def __init__(
        self,
        loop: StepLoop,
        max_waiting: int,
        max_waiting_images: int,
        on_step: Callable[[], None],
    ) -> None:
        """`on_step` is called when there is nothing to compute; the loop calls it otherwise."""
        self._loop = loop
        self._max_waiting = max_waiting
        self._max_waiting_images = max_waiting_images
        self._on_step = on_step
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Job, list[Sample]]] = deque()
        self._sole: Job | None = None  # the only one at work in the step under way
        self._closing = False
        self._dead: LocalLLMError | None = None
        self._interval_s = 0.5  # between the ends of requests, lately
        self._n_finished, self._finished_at = 0, time.perf_counter()
        # OpenMP keeps a pool of threads for each thread that computes: always the same one.
        self._thread = threading.Thread(target=self._run, name="localllm-scheduler", daemon=True)
        self._thread.start()
        # Before native objects are freed at exit: theirs is an older handler, so it runs later.
        atexit.register(self._at_exit)

    # --- from any thread -----------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Raises UsageProblem, Busy, Stopped."""
        loop = self._loop
        loop.check(job.request)
        job.tell = _guarded(job.tell, job)
        n_images = job.n_images
        with self._changed:
            self._refuse(n_images)  # before the samplers are made, which takes a while
        samples = loop.samples(job)
        try:
            with self._changed:
                self._refuse(n_images)
                self._waiting.append((job, samples))
                self._changed.notify()
        except LocalLLMError:
            for sample in samples:
                sample.discard()
            raise

    def cancel(self, job: Job) -> None:
        with self._changed:
            job.cancelled = True
            if self._sole is job:
                self._loop.context.abort()
            self._changed.notify()

    def load(self) -> Load:
        loop, memory = self._loop, self._loop.memory
        return Load(
            n_slots=loop.context.n_seq_max,
            n_running=loop.n_samples,
            n_waiting=len(self._waiting),
            n_held=memory.n_held,
            cells_used=memory.book.used,
            cells=loop.context.n_ctx,
            saved_bytes=memory.store.used_bytes,
            counters=replace(loop.counters),
        )

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._loop.busy

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self._dead is None

    def close(self, finish: bool) -> None:
        """Let everyone finish, or cancel everyone; then end the thread. Twice is once."""
        with self._changed:
            self._closing = True
            if not finish:
                for job in (*(job for job, _ in self._waiting), *self._at_work()):
                    job.cancelled = True
                if self._sole is not None:
                    self._loop.context.abort()
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        self.close(finish=False)

    def _refuse(self, n_images: int) -> None:
        if self._dead is not None:
            raise Stopped(f"the engine has stopped: {self._dead.message}", self._dead.hint)
        if self._closing:
            raise Stopped("the scheduler is closed")
        waiting = sum(job.n_images for job, _ in self._waiting) if n_images else 0
        crowded = waiting > 0 and waiting + n_images > self._max_waiting_images
        if crowded or len(self._waiting) >= self._max_waiting:
            raise Busy(len(self._waiting), self._interval_s * len(self._waiting))

    def _at_work(self) -> list[Job]:
        return [slot.job for slot in self._loop.slots]

    # --- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._attend():
                try:
                    self._loop.step()
                except Interrupted:  # the sole request was cancelled: the next step ends it
                    if self._loop.context.closed:
                        raise
                finally:
                    with self._changed:
                        self._sole = None
                        self._loop.context.arm()
        except BaseException as error:  # noqa: BLE001 - told to everyone who waits
            self._die(error)
        finally:
            self._loop.close()
            self._on_step()

    def _attend(self) -> bool:
        """Between two steps: who came, who left, who is late. False when all is done."""
        if self.idle:
            self._on_step()  # what the last step brought
        with self._changed:
            while not self._waiting and not self._loop.busy:
                if self._closing:
                    return False
                self._changed.wait()
        self._measure()
        self._dismiss()
        while True:
            with self._changed:
                first = self._waiting[0] if self._waiting else None
            if first is None or not self._loop.may_admit(first[0]):
                break
            with self._changed:
                self._waiting.popleft()
            self._loop.admit(*first)
        with self._changed:
            jobs = {slot.job for slot in self._loop.running}
            self._sole = next(iter(jobs)) if len(jobs) == 1 else None
        return True

    def _dismiss(self) -> None:
        """End who was cancelled while waiting, and who is late."""
        now = time.perf_counter()
        with self._changed:
            gone = [(j, s) for j, s in self._waiting if j.cancelled or j.overdue(now)]
            if gone:
                self._waiting = deque(one for one in self._waiting if one not in gone)
        for job, samples in gone:
            _end(job, samples, None if job.cancelled else job.overdue(now))
        for job in dict.fromkeys(self._at_work()):
            late = job.overdue(now)
            if late is not None:
                self._loop.fail(job, late)

    def _measure(self) -> None:
        """How often a request ends, for the hint when to ask again."""
        n, now = self._loop.counters.finished, time.perf_counter()
        if n > self._n_finished:
            interval = (now - self._finished_at) / (n - self._n_finished)
            self._interval_s += 0.2 * (interval - self._interval_s)
            self._n_finished, self._finished_at = n, now

    def _die(self, error: BaseException) -> None:
        known = isinstance(error, LocalLLMError)
        dead = error if known else EngineError(f"the engine failed: {error!r}")
        assert isinstance(dead, LocalLLMError)
        with self._changed:
            self._dead = dead
            waiting, self._waiting = self._waiting, deque()
        for job in dict.fromkeys(self._at_work()):
            self._loop.fail(job, dead)
        for job, samples in waiting:
            _end(job, samples, dead)


def _end(job: Job, samples: list[Sample], error: LocalLLMError | None) -> None:
    for sample in samples:
        job.send(sample.end("cancelled", error=error))


def _guarded(tell: Callable[[Event], None], job: Job) -> Callable[[Event], None]:
    """A caller's callback that raises ends its own request, and not the thread of all."""

    def guarded(event: Event) -> None:
        if job.callback_error is not None:
            return
        try:
            tell(event)
        except BaseException as error:  # noqa: BLE001 - whatever the caller's code raises
            job.callback_error, job.cancelled = error, True

    return guarded
