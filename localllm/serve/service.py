"""What all handlers share, and how each of them gets an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from localllm.engine.scheduler import Stopped
from localllm.errors import FileGone
from localllm.generation import Accounting
from localllm.serve.answering.answer import Answering, Whole, gathered, totals
from localllm.serve.answering.ask import Ask, prepare
from localllm.serve.answering.feed import Courier
from localllm.serve.resident.desk import Desk, InUse
from localllm.serve.web.bodies import Bodies
from localllm.serve.web.exchange import Exchange, exchange_of
from localllm.serve.web.limits import Limits

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")


@dataclass(frozen=True)
class Begun:
    """An answer under way. `close` it, or nobody else gets its model's room."""

    use: InUse
    answering: Answering
    exchange: Exchange
    stack: AsyncExitStack

    async def whole(self) -> tuple[Whole, ...]:
        """All of it. Raises the request's error."""
        try:
            found = await gathered(self.answering)
        finally:
            await self.close()
        self.account([one.account for one in found])
        return found

    def account(self, ended: Sequence[Accounting]) -> None:
        """Note for the log and the metrics what it took."""
        usage = self.exchange.usage
        usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens = totals(list(ended))
        usage.first_token_s = max((one.first_token_s for one in ended), default=None)
        usage.finish = ended[0].finish_reason if ended else ""

    async def close(self) -> None:
        await self.stack.aclose()


@dataclass
class Service:
    """The parts of one server."""

    desk: Desk
    courier: Courier
    bodies: Bodies
    limits: Limits = field(default_factory=Limits)
    started_at: float = field(default_factory=time.time)
    draining: bool = False  # no new work is taken

    async def work(self, function: Callable[[], T]) -> T:
        return await self.desk.work(function)

    def check_open(self) -> None:
        if self.draining:
            raise Stopped("the server is stopping")

    async def begin(
        self,
        request: Request,
        name: str,
        ask: Ask,
        *,
        whole: bool,
        keep_alive_s: float | None = None,
    ) -> Begun:
        """Load the model if need be, and start to answer.

        Raises ModelNotFound, UsageProblem, Busy, DoesNotFit ...: whatever can be known before
        the first token, so that it can still be a status.
        """
        self.check_open()
        exchange = exchange_of(request.scope)
        exchange.usage.model = name
        stack = AsyncExitStack()
        try:
            try:
                use = await stack.enter_async_context(self.desk.use(name, keep_alive_s))
            except FileGone:
                raise FileGone(f"the file of {name} is gone") from None  # its path is not theirs
            exchange.usage.model = use.served.name
            answering = await self._started(ask, use, whole, stack)
        except BaseException:
            await stack.aclose()
            raise
        exchange.stop = answering.cancel
        return Begun(use, answering, exchange, stack)

    async def _started(self, ask: Ask, use: InUse, whole: bool, stack: AsyncExitStack) -> Answering:
        def start() -> Answering:
            answering = Answering(self.courier, use.resident, prepare(ask, use), whole=whole)
            answering.start()
            return answering

        work = asyncio.ensure_future(self.desk.work(start))
        try:
            answering = await asyncio.shield(work)
        except asyncio.CancelledError:
            # The worker goes on for a moment: the model must not be unloaded under it.
            held = stack.pop_all()
            work.add_done_callback(lambda done: _given_up(done, held))
            raise
        stack.callback(answering.close)
        return answering


_ending: set[asyncio.Task[None]] = set()  # asyncio keeps no tasks alive by itself


def _given_up(work: asyncio.Future[Answering], held: AsyncExitStack) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().close()
    task = asyncio.ensure_future(held.aclose())
    _ending.add(task)
    task.add_done_callback(_ending.discard)
