"""The caller's end of a request."""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.engine.scheduler.request import Event, Request
from localllm.engine.scheduler.slot import Job
from localllm.errors import EngineError, LocalLLMError, UsageProblem
from localllm.generation import Accounting, Piece

if TYPE_CHECKING:
    from localllm.engine.scheduler.worker import Worker

OnEvent = Callable[[Event], None]

# How long a wait may be deaf to Ctrl-C on Windows; elsewhere signals end the wait at once.
_POLL_S = 0.1


@dataclass(frozen=True)
class Completion:
    """One whole answer. `tokens` hold the one that ended it, too."""

    text: str
    tokens: tuple[int, ...]
    accounting: Accounting


class Transcript:
    """Events put together."""

    def __init__(self, request: Request) -> None:
        self._texts: list[list[str]] = [[] for _ in range(request.n)]
        self._tokens: list[list[int]] = [[] for _ in range(request.n)]
        self._accounts: dict[int, Accounting] = {}
        self.error: LocalLLMError | None = None

    def add(self, event: Event) -> None:
        self._texts[event.sample].append(event.text)
        if event.token is not None:
            self._tokens[event.sample].append(event.token)
        if event.accounting is not None:
            self._accounts[event.sample] = event.accounting
        self.error = event.error or self.error

    def completions(self) -> tuple[Completion, ...]:
        """Of all samples, in order, once each has ended. Raises the request's error."""
        if self.error is not None:
            raise self.error
        return tuple(
            Completion("".join(text), tuple(tokens), self._accounts[i])
            for i, (text, tokens) in enumerate(zip(self._texts, self._tokens, strict=True))
        )


class Answer:
    """What a request brings: a Stream of pieces, or events, or whole completions.

    Read it once, in one of these ways; from any thread. It computes whether it is read or not,
    and to stop reading a stream cancels it. With `on_event` nothing is kept for reading.
    """

    def __init__(self, request: Request, on_event: OnEvent | None) -> None:
        self.request = request
        self.accounting: Accounting | None = None
        self.tokens: list[int] = []  # of sample 0, as they are read
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._readable = on_event is None
        self._worker: Worker | None = None
        self.job = Job(request, on_event or self._events.put)

    def bind(self, worker: Worker) -> None:
        self._worker = worker

    def cancel(self) -> None:
        """Stop within one step, during a long prompt too; from any thread or signal handler."""
        if self._worker is not None:
            self._worker.cancel(self.job)

    def __iter__(self) -> Iterator[Piece]:
        """Pieces of the only sample. Raises the request's error, if it ended with one."""
        if self.request.n != 1:
            raise UsageProblem(f"a request of {self.request.n} samples is no single stream")
        shown = 0
        for event in self.events():
            n = len(self.tokens)
            if event.text:
                yield Piece(event.text, n - shown)
                shown = n

    def events(self) -> Iterator[Event]:
        """Every event as it comes, until all samples have ended.

        Raises the request's error after the last event.
        """
        if not self._readable:
            raise EngineError("this answer was read before, or goes to a callback")
        self._readable = False
        n_open = self.request.n
        failed: Event | None = None
        try:
            while n_open:
                event = self._next()
                if event.sample == 0:
                    if event.token is not None:
                        self.tokens.append(event.token)
                    self.accounting = event.accounting
                n_open -= event.last
                failed = event if event.error else failed
                yield event
        finally:
            if n_open:
                self.cancel()
                self._drain(n_open)
        if failed is not None and failed.error is not None:
            raise failed.error

    def results(self) -> tuple[Completion, ...]:
        """Wait for all samples, in order. Raises the request's error."""
        script = Transcript(self.request)
        for event in self.events():
            script.add(event)
        return script.completions()

    def _next(self) -> Event:
        if sys.platform != "win32":
            return self._events.get()
        while True:
            try:
                return self._events.get(timeout=_POLL_S)
            except queue.Empty:
                continue

    def _drain(self, n_open: int) -> None:
        """After cancelling: the account of what was computed."""
        while n_open:
            event = self._next()
            n_open -= event.last
            if event.sample == 0 and event.accounting is not None:
                self.accounting = event.accounting
