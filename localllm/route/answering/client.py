"""Routers opened by name, and their answers on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from localllm import config
from localllm.errors import LocalLLMError, UsageProblem
from localllm.generation import Message
from localllm.registry import Registry
from localllm.route.answering.members import Members
from localllm.route.answering.opening import LocalWishes, OwnLender
from localllm.route.answering.planning import stays_with
from localllm.route.answering.routed import RoutedGenerator
from localllm.route.answering.routed_stream import RoutedStream
from localllm.route.answering.routing import Routing
from localllm.route.deciding.asked import Asked
from localllm.route.deciding.guarding import fixed_of
from localllm.route.deciding.verdict import decided
from localllm.route.opening import open_named
from localllm.route.pool.steps import CascadeStep
from localllm.toolcalls import CallStart, Tool

if TYPE_CHECKING:
    from localllm.endpoints import Delta, Embedded, Ended, Wanted
    from localllm.library.lending import Lender
    from localllm.route.opening import OpenRouter
    from localllm.ui import Progress

# Parts, who answers as far as it is known, and whether that was the end
_Arrived = tuple[list["Delta | Ended"], Routing, bool]


def open_generator(
    registry: Registry, text: str, *, number: int | None = None, threshold: float | None = None,
    n_ctx: int | None = None, lender: Lender | None = None, progress: Progress | None = None,
    tell: Callable[[str], None] = lambda said: None,
) -> RoutedGenerator:  # fmt: skip
    """A router that answers, its members opened when they are asked, or lent. Close it when
    done."""
    settings = config.load()
    opened, own = open_named(registry, text, number=number)
    if threshold is not None:
        opened.decider.check_threshold(threshold)
    wishes = LocalWishes(n_ctx or settings.n_ctx, settings.threads, _samples(opened))
    own_lender = lender or OwnLender(wishes, progress)
    doors = Members(opened.name, opened.spec, opened.standings, registry, own_lender)
    limit = own if threshold is None else threshold
    return RoutedGenerator(
        opened, limit, registry, doors, tell=tell, keep_prompts=settings.save_chats
    )


def _samples(opened: OpenRouter) -> int:
    """How many sequences a member's context must hold at once."""
    last = opened.spec.last
    return last.samples if isinstance(last, CascadeStep) else 1


class RouterClient:
    """A library.answering.FarClient: a RoutedGenerator for an event loop. Each answer has a thread
    of its own while it lasts."""

    def __init__(self, generator: RoutedGenerator) -> None:
        self.generator = generator

    def stream(self, wanted: Wanted) -> RouterSteps:
        return RouterSteps(self.generator, wanted)

    def decide(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()
    ) -> dict[str, Any]:  # fmt: skip
        """The decision alone, as plain data: whom `stream` would ask (unless that one failed
        of late and rests). Nobody is asked, nothing is kept."""
        from localllm.endpoints import Wanted

        opened = self.generator.opened
        asked = Asked.of(messages, tools=bool(tools))
        choice = opened.decider.decide(asked, self.generator.threshold)
        fixed = fixed_of(Wanted(messages=tuple(messages), tools=tuple(tools)))
        began = stays_with(opened, choice, messages, self.generator.sticky.find)
        return asdict(decided(opened, choice, messages, fixed, began))

    async def embed(
        self, texts: Sequence[str | Sequence[int]], dimensions: int | None = None
    ) -> Embedded:
        raise UsageProblem(f"{self.generator.name} is a router: it makes no vectors")

    async def aclose(self) -> None:
        await asyncio.to_thread(self.generator.close)


class RouterSteps:
    """One answer's steps. `about` says who answers and why, as plain data: from the first step on,
    and whole at the end. Leaving it early (aclose) cancels the answer."""

    def __init__(self, generator: RoutedGenerator, wanted: Wanted) -> None:
        self.about: Mapping[str, Any] | None = None
        self._work = _Work(generator, wanted)
        self._begun = self._over = False

    def __aiter__(self) -> RouterSteps:
        return self

    async def __anext__(self) -> list[Delta | Ended]:
        if self._over:
            raise StopAsyncIteration
        if not self._begun:
            self._begun = True
            self._work.start()
        found, routing, self._over = await self._work.next()
        self.about = _for_clients(routing)
        return found

    async def aclose(self) -> None:
        self._over = True
        self._work.cancel()


def _for_clients(routing: Routing) -> dict[str, Any]:
    """Without what errors say of addresses and files: that is the operator's business."""
    failures = [{"member": one.member, "kind": one.kind} for one in routing.failures]
    return {**asdict(routing), "failures": failures}


class _Work:
    """One answer on a thread, and what came of it."""

    def __init__(self, generator: RoutedGenerator, wanted: Wanted) -> None:
        self._generator, self._wanted = generator, wanted
        self._arrived: asyncio.Queue[_Arrived | BaseException] = asyncio.Queue()
        self._stream: RoutedStream | None = None
        self._gone = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="localllm-route", daemon=True).start()

    async def next(self) -> _Arrived:
        """Raises what the answer raised."""
        found = await self._arrived.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def cancel(self) -> None:
        self._gone = True
        if self._stream is not None:
            self._stream.cancel()

    def _put(self, found: _Arrived | BaseException) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, found)

    def _run(self) -> None:
        from localllm.endpoints import Delta, Ended, EndpointAccounting

        try:
            stream = self._stream = self._generator.ask(self._wanted)
            if self._gone:
                stream.cancel()
            call = -1
            while (part := stream.next_part()) is not None:
                call += isinstance(part, CallStart)
                self._put(([Delta(0, part, max(call, 0))], stream.routing, False))
            account = stream.accounting
            assert isinstance(account, EndpointAccounting)  # set at the end
            self._put(([Ended(0, account, bool(stream.calls))], stream.routing, True))
        except BaseException as error:
            self._put(error)
            if not isinstance(error, LocalLLMError):
                raise
