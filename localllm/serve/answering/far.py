"""Answers of those elsewhere (endpoints, routers), on the event loop: a task a stream, no thread.

Nothing of a client's request but its body's meaning goes out, and nothing of the answer but its
text and calls comes back: neither side sees the other's headers, keys or addresses.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from localllm.endpoints import Delta, Wanted
from localllm.engine.scheduler import Stopped
from localllm.errors import AccessDenied, LocalLLMError, SourceFailed, UsageProblem
from localllm.generation import Sampling
from localllm.library.answering import Far, FarClient
from localllm.library.endpoints import FarEndpoint, all_endpoints
from localllm.registry import Registry
from localllm.serve.answering.answer import Called, Ended, Part, Said, Thinking, joined
from localllm.serve.answering.ask import Ask
from localllm.serve.log import Log
from localllm.toolcalls import TextPart

if TYPE_CHECKING:
    from localllm.endpoints import Embedded
    from localllm.endpoints import Ended as FarEnded
    from localllm.library.lending import Lender

# Steps that may wait for a slow reader; then nothing more is read from the server either.
_AHEAD = 256


@dataclass(frozen=True)
class FarUse:
    """What stands where a request has its model in use."""

    far: Far
    client: FarClient
    load_s: float = 0.0


class Elsewhere:
    """The clients of all who answer from elsewhere, made when they are first asked."""

    def __init__(self) -> None:
        self.lender: Lender | None = None  # of the models that this server holds
        self._clients: dict[str, FarUse] = {}
        self._replaced: list[FarUse] = []
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def use(self, far: Far) -> FarUse:
        """On a worker: a keyring may take its time, for which only those who want the same one
        wait. Raises AccessDenied, MissingExtra, ..."""
        with self._lock:
            own = self._making.setdefault(far.name, threading.Lock())
        with own:
            known = self._clients.get(far.name)
            if known is not None and known.far == far:
                return known
            made = FarUse(far, _told_apart(far, self.lender))
            with self._lock:
                if known is not None:  # changed in the registry; answers of the old one go on
                    self._replaced.append(known)
                self._clients[far.name] = made
            return made

    async def aclose(self) -> None:
        with self._lock:
            found = (*self._clients.values(), *self._replaced)
        for one in found:
            await one.client.aclose()


def _told_apart(far: Far, lender: Lender | None) -> FarClient:
    try:
        return far.client(lender)
    except LocalLLMError as error:
        raise for_clients(far, error) from None


def wanted_of(ask: Ask, far: Far) -> Wanted:
    """Raises UsageProblem for what cannot be asked of those elsewhere."""
    if ask.logprobs is not None:
        raise UsageProblem(f"log-probabilities of {far.name} are not given on: it is elsewhere")
    if ask.suffix is not None or ask.before or ask.images or ask.template is not None:
        raise UsageProblem(
            f"{far.name} is elsewhere: it takes no suffix, context, template or raw image"
        )
    sampling = replace(Sampling(), **ask.sampling)
    return Wanted(
        messages=ask.messages,
        text=ask.text or ask.tokens,
        sampling=sampling,
        given=frozenset(ask.sampling),
        n=ask.n,
        schema=ask.schema,
        tools=ask.tools,
        tool_choice=ask.tool_choice,
        parallel_calls=ask.parallel_calls,
        logit_bias=ask.logit_bias,
        variables=ask.variables,
        ignore_eog=ask.ignore_eog,
        deadline_s=ask.deadline_s,
    )


class FarAnswering:
    """One request under way, as Answering is for a model here."""

    def __init__(self, use: FarUse, wanted: Wanted) -> None:
        self.n = wanted.n
        self._use, self._wanted = use, wanted
        self._steps: asyncio.Queue[list[Delta | FarEnded] | None] = asyncio.Queue(_AHEAD)
        self._first: list[Delta | FarEnded] | None = None
        self._task: asyncio.Task[None] | None = None
        self._source: object = None

    @property
    def about(self) -> Mapping[str, Any] | None:
        """What a router says of who answers and why, as plain data; None of others."""
        found = getattr(self._source, "about", None)
        return found if isinstance(found, Mapping) else None

    async def start(self) -> None:
        """Ask, and wait until it is answered at all: what the server refuses is still a status.
        Raises what the client raises."""
        self._task = asyncio.create_task(self._read())
        self._task.add_done_callback(self._done)
        self._first = await self._next()

    async def parts(self) -> AsyncIterator[list[Part]]:
        """What came, a list a step. Raises the request's error; what came before it was given."""
        found, self._first = self._first, None
        while found is not None:
            if parts := [_part(one) for one in found]:
                yield joined(parts)
            found = await self._next()

    async def _next(self) -> list[Delta | FarEnded] | None:
        """The next step, None at the end."""
        ended = self._task is not None and self._task.done() and self._steps.empty()
        found = None if ended else await self._steps.get()
        if found is None and self._task is not None:
            if self._task.cancelled():
                raise Stopped("the server is stopping; the answer was cut off")
            if (error := self._task.exception()) is not None:
                raise error
        return found

    async def _read(self) -> None:
        try:
            self._source = self._use.client.stream(self._wanted)
            async with aclosing(self._source) as steps:
                async for found in steps:
                    await self._steps.put(found)
        except LocalLLMError as error:
            raise for_clients(self._use.far, error) from None

    def _done(self, task: asyncio.Task[None]) -> None:
        """Wake who waits. Where the queue is full nobody does, and the end is seen after it."""
        if not task.cancelled():
            task.exception()  # looked at: it may be that nobody wants it
        if not self._steps.full():
            self._steps.put_nowait(None)

    def cancel(self) -> None:
        """Close the connection to the server at once."""
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        self.cancel()


@asynccontextmanager
async def answering(use: FarUse, ask: Ask) -> AsyncIterator[FarAnswering]:
    """Begin to answer; whatever happens, the connection is closed at the end."""
    made = FarAnswering(use, wanted_of(ask, use.far))
    try:
        await made.start()
        yield made
    finally:
        made.close()


async def embedded(
    use: FarUse, texts: Sequence[str | Sequence[int]], dimensions: int | None
) -> Embedded:
    """Raises what the client raises."""
    try:
        return await use.client.embed(texts, dimensions)
    except LocalLLMError as error:
        raise for_clients(use.far, error) from None


def for_clients(far: Far, error: LocalLLMError) -> LocalLLMError:
    """`error` as clients may read it: not where the server's own key is, and not the address of
    what stands behind it. The operator reads all of it in the log."""
    if not isinstance(error, UsageProblem):
        Log.line("elsewhere", name=far.name, error=error.message)
    if isinstance(error, AccessDenied):
        return SourceFailed(f"{far.name} refuses this server: its key is missing or wrong")
    if hosts := _hosts(far):
        text = re.sub(rf" \((?:{hosts})\)", "", error.message)
        error.message = re.sub(hosts, lambda _: far.name, text)
    error.hint = None
    return error


def _hosts(far: Far) -> str:
    """The addresses of whom `far` may have asked, with their ports and without (servers name
    themselves so), as a pattern, the longest first; "" for none. A router's members can be any
    endpoints of its registry."""
    registry = getattr(far, "registry", None)
    known = all_endpoints(registry) if isinstance(registry, Registry) else ()
    asked = (far.endpoint,) if isinstance(far, FarEndpoint) else known
    found = {text for one in asked for text in (one.host, urlsplit(one.url).hostname) if text}
    hosts = "|".join(re.escape(host) for host in sorted(found, key=len, reverse=True))
    return rf"(?<![\w.-])(?:{hosts})(?![\w-])" if hosts else ""


def _part(one: Delta | FarEnded) -> Part:
    if not isinstance(one, Delta):
        return Ended(one.sample, one.accounting, one.called)
    part: Any = one.part
    if isinstance(part, TextPart):
        return Thinking(one.sample, part.text) if part.thinking else Said(one.sample, part.text)
    return Called(one.sample, one.call, part)
