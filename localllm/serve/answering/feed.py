"""From the threads that compute to the event loop, with one wake-up a step.

A step of the scheduler tells every stream of its token. To wake the event loop for each would
cost more than the tokens: a system call each, and the interpreter's lock taken from the thread
that should compute the next step. So events go into one bag, and the loop is called once for all
of them, when the step has ended and the computing thread is about to leave the lock alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from localllm.engine.scheduler import Event
from localllm.serve.answering.bell import Bell

# Events that may wait for a reader who does not read: more than any context has tokens would be
# no bound, less would cut off those who only read slowly.
MAX_PENDING = 1 << 15


class Cancellable(Protocol):
    """What is under way, and can be given up."""

    def cancel(self) -> None: ...


class Courier:
    """Carries events from computing threads to one event loop; to be made on its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._bell = Bell(loop, self._deliver)
        self._bag: deque[tuple[Feed, tuple[Event, ...]]] = deque()
        self._called = False

    def put(self, feed: Feed, *events: Event) -> None:
        """From any thread; `flush` sends it off."""
        self._bag.append((feed, events))

    def flush(self) -> None:
        """From any thread, after a step."""
        # In this order (put, look, call) and the other way round below (clear, take), nothing
        # that was put can be left lying.
        if self._bag and not self._called:
            self._called = True
            self._bell.ring()

    def _deliver(self) -> None:
        self._called = False
        bag = self._bag
        while bag:
            feed, events = bag.popleft()
            feed.arrived(events)


class Feed:
    """One request's events, on the event loop's side.

    A `whole` one is for who waits for all of the answer: nothing is sent before its end.
    """

    def __init__(self, courier: Courier, n_samples: int, *, whole: bool = False) -> None:
        self._courier = courier
        self._whole: list[Event] | None = [] if whole else None
        self._n_open = n_samples  # counted by the computing thread
        self._pending: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None
        self.n_left = n_samples  # samples whose end has not been read yet
        self.overrun = False
        self._answer: Cancellable | None = None

    def tell(self, event: Event) -> None:
        """The scheduler's callback: on the computing thread, or on the one that submits."""
        if self._whole is None:
            self._courier.put(self, event)
            return
        self._whole.append(event)
        self._n_open -= event.last
        if not self._n_open:
            self._courier.put(self, *self._whole)

    def bind(self, answer: Cancellable) -> None:
        self._answer = answer

    def cancel(self) -> None:
        """End the request within a step; its last events still come."""
        if self._answer is not None:
            self._answer.cancel()

    # --- on the event loop ---------------------------------------------------------------

    def arrived(self, events: tuple[Event, ...]) -> None:
        self._pending += events
        if self._whole is None and len(self._pending) > MAX_PENDING and not self.overrun:
            self.overrun = True
            self.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> list[Event]:
        """All that has come since the last time, at least one event."""
        while not self._pending:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        events, self._pending = self._pending, []
        self.n_left -= sum(event.last for event in events)
        return events


OnStep = Callable[[], None]
