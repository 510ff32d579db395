"""A server elsewhere as a `Generator`, for code that knows no event loops."""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from localllm.closing import Closing
from localllm.endpoints import threads
from localllm.endpoints.accounting import EndpointAccounting
from localllm.endpoints.client import EndpointClient
from localllm.endpoints.endpoint import Endpoint
from localllm.endpoints.keys import Key, key_of
from localllm.endpoints.listing import Embedded, Listed
from localllm.endpoints.reading import Delta, Reading
from localllm.endpoints.wanted import Wanted, body_of
from localllm.errors import UsageProblem
from localllm.generation import Message, Piece, Sampling
from localllm.toolcalls import CallArguments, CallStart, Part, TextPart, ToolCall

T = TypeVar("T")

# How long a wait may be deaf to Ctrl-C on Windows; elsewhere signals end the wait at once.
_POLL_S = 0.1


class EndpointGenerator(Closing):
    """Answers from one server; any number of answers at once, from any thread.

    All endpoints of a process share one thread. The key is read once, when this is made.
    """

    def __init__(self, endpoint: Endpoint, key: Key | None = None) -> None:
        """`key` None is read from where the endpoint says. Raises AccessDenied, MissingExtra."""
        self.endpoint = endpoint
        self._client = EndpointClient(endpoint, key or key_of(endpoint.key))

    @property
    def name(self) -> str:
        return self.endpoint.name

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> EndpointStream:
        """Answer a conversation; it is asked when the stream is read. Fields of `sampling` that are
        its defaults are left to the server. Raises UsageProblem for what it cannot do."""
        return self.ask(Wanted(messages=tuple(messages), sampling=sampling))

    def ask(self, wanted: Wanted) -> EndpointStream:
        """The same with tools, a schema, or a text to be continued. Raises UsageProblem."""
        if wanted.n != 1:
            raise UsageProblem(f"a request of {wanted.n} samples is no single stream")
        body_of(self.endpoint, wanted)
        return EndpointStream(self._client, wanted)

    def models(self) -> Listed:
        """What the server offers."""
        return self._run(self._client.models())

    def embed(
        self, texts: Sequence[str | Sequence[int]], dimensions: int | None = None
    ) -> Embedded:
        return self._run(self._client.embed(texts, dimensions))

    def close(self) -> None:
        """Close its connections. May be called twice."""
        self._run(self._client.aclose())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = threads.submit(work)
        try:
            found: T = _waited(future.result)
            return found
        except BaseException:
            future.cancel()
            raise


class EndpointStream:
    """A generation.Stream. Read it once: as pieces of the answer's text, or with `parts` thinking
    and tool calls too. `thinking` and `calls` are complete when it has ended, `model` (who answers,
    by its own word) is there with the first of it."""

    def __init__(self, client: EndpointClient, wanted: Wanted) -> None:
        self.wanted = wanted
        self.accounting: EndpointAccounting | None = None
        self.model: str | None = None
        self.thinking = ""
        self.calls: tuple[ToolCall, ...] = ()
        self._client = client
        self._arrived: queue.SimpleQueue[list[Delta] | EndpointAccounting] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._cancelled = False
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Delta] = []

    def cancel(self) -> None:
        """Close the connection at once; iteration ends with finish reason `cancelled`. From any
        thread or signal handler."""
        self._cancelled = True
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._stop)

    def __iter__(self) -> Iterator[Piece]:
        """Raises the request's error after what came before it."""
        return _Pieces(self)

    def parts(self) -> Iterator[Part]:
        """The same with everything that is no text of the answer."""
        return _Parts(self)

    def text(self) -> str:
        """Wait for the end; the whole answer's text."""
        return "".join(piece.text for piece in self)

    # --- on the reader's side ---------------------------------------------------------------

    def next_part(self) -> Part | None:
        """The next part, None at the end."""
        while not self._waiting or self._cancelled:
            if self.accounting is not None:
                return None
            self._begin()
            arrived = _waited(self._next)
            if isinstance(arrived, EndpointAccounting):
                self._end(arrived)
                return None
            self._waiting = arrived
        part = self._waiting.pop(0).part
        self._keep(part)
        return part

    def _begin(self) -> None:
        if self._loop is None:
            self._loop = threads.shared_loop()
            self._loop.call_soon_threadsafe(self._start)

    def _next(self, timeout: float | None = None) -> list[Delta] | EndpointAccounting:
        return self._arrived.get(timeout=timeout)

    def _keep(self, part: Part) -> None:
        if isinstance(part, TextPart) and part.thinking:
            self.thinking += part.text
        elif isinstance(part, CallStart):
            self.calls = (*self.calls, ToolCall(part.id, part.name, ""))
        elif isinstance(part, CallArguments):
            last = self.calls[-1]
            self.calls = (*self.calls[:-1], replace(last, arguments=last.arguments + part.text))

    def _end(self, accounting: EndpointAccounting) -> None:
        self.accounting, self.model = accounting, accounting.model
        if self._error is not None and not self._cancelled:
            raise self._error

    # --- on the shared loop -----------------------------------------------------------------

    def _start(self) -> None:
        reading = Reading(self._client.endpoint, self.wanted)
        self._task = asyncio.ensure_future(self._read(reading))
        self._task.add_done_callback(lambda task: self._done(task, reading))
        if self._cancelled:
            self._task.cancel()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _read(self, reading: Reading) -> None:
        async with aclosing(self._client.read(reading, self.wanted)) as parts:
            async for found in parts:
                self.model = reading.model
                self._arrived.put(found)

    def _done(self, task: asyncio.Task[None], reading: Reading) -> None:
        """However it ended, also where it was given up before it began."""
        if not task.cancelled():
            self._error = task.exception()
        self._arrived.put(reading.ended(cancelled=self._cancelled)[0].accounting)


class _Parts(Iterator[Part]):
    """No generator function: one that Ctrl-C went through would be over, and the account of what
    was said is still to come."""

    def __init__(self, stream: EndpointStream) -> None:
        self._stream = stream

    def __next__(self) -> Part:
        part = self._stream.next_part()
        if part is None:
            raise StopIteration
        return part


class _Pieces(Iterator[Piece]):
    def __init__(self, stream: EndpointStream) -> None:
        self._stream = stream

    def __next__(self) -> Piece:
        while (part := self._stream.next_part()) is not None:
            if isinstance(part, TextPart) and not part.thinking:
                return Piece(part.text, 1)
        raise StopIteration


def _waited(wait: Any) -> Any:
    """`wait(timeout)` until it brings something."""
    if sys.platform != "win32":
        return wait(None)
    while True:
        try:
            return wait(_POLL_S)
        except (queue.Empty, TimeoutError):
            continue
