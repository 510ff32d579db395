"""What all handlers share, and how each of them gets an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from localllm.engine.scheduler import Stopped
from localllm.errors import FileGone, UsageProblem
from localllm.generation import Accounting
from localllm.library.answering import Far
from localllm.serve.answering.answer import Answering, Answers
from localllm.serve.answering.ask import Ask, counted, prepare
from localllm.serve.answering.far import Elsewhere, FarAnswering, FarUse, answering
from localllm.serve.answering.feed import Courier
from localllm.serve.answering.whole import Whole, gathered, totals
from localllm.serve.resident.desk import Desk, InUse
from localllm.serve.web.bodies import Bodies
from localllm.serve.web.exchange import Exchange, exchange_of
from localllm.serve.web.limits import Limits

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")


class _NoTokenizer:
    """Of somebody elsewhere: asked for anything, it says so."""

    def __getattr__(self, name: str) -> Any:
        raise UsageProblem("tokens are not known here: what was asked for is elsewhere")


@dataclass(frozen=True)
class Begun:
    """An answer under way. `close` it, or nobody else gets its model's room."""

    use: InUse | FarUse
    answering: Answers
    exchange: Exchange
    stack: AsyncExitStack

    @property
    def about(self) -> Mapping[str, Any] | None:
        """What a router says of who answers and why."""
        return self.answering.about if isinstance(self.answering, FarAnswering) else None

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.use.resident.tokenizer if isinstance(self.use, InUse) else _NoTokenizer()

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
    elsewhere: Elsewhere = field(default_factory=Elsewhere)

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
        if (far := await self.far(name)) is not None:
            return await self._begin_far(exchange, far, ask)
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

    async def count(self, request: Request, name: str, ask: Ask) -> int:
        """The tokens of the prompt that `ask` becomes. Raises what `begin` does."""
        self.check_open()
        exchange_of(request.scope).usage.model = name
        if (far := await self.far(name)) is not None:
            raise UsageProblem(f"tokens of {far.name} are not counted here: it is elsewhere")
        async with self.desk.use(name) as use:
            return await self.work(lambda: counted(ask, use))

    async def far(self, name: str) -> Far | None:
        """Who answers to this name from elsewhere; None where it is a model's."""
        catalog = self.desk.catalog
        if catalog.far_is_fresh:
            return catalog.far(name)
        return await self.work(lambda: catalog.far(name))

    async def far_use(self, far: Far) -> FarUse:
        """Raises SourceFailed for a key that is not there."""
        return await self.work(lambda: self.elsewhere.use(far))

    async def _begin_far(self, exchange: Exchange, far: Far, ask: Ask) -> Begun:
        exchange.usage.model = far.name
        use = await self.far_use(far)
        stack = AsyncExitStack()
        answers = await stack.enter_async_context(answering(use, ask))
        exchange.stop = answers.cancel
        exchange.headers |= routing_headers(answers.about)
        return Begun(use, answers, exchange, stack)

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


def routing_headers(about: Mapping[str, Any] | None) -> dict[str, str]:
    """What a router decided, for clients that read no unknown fields."""
    names = ("router", "version", "member", "probability", "threshold", "decision")
    given = {} if about is None else {name: about.get(name) for name in names}
    return {f"x-localllm-{n}": f"{v:.6g}" if isinstance(v, float) else str(v)
            for n, v in given.items() if v is not None}  # fmt: skip


_ending: set[asyncio.Task[None]] = set()  # asyncio keeps no tasks alive by itself


def _given_up(work: asyncio.Future[Answering], held: AsyncExitStack) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().close()
    task = asyncio.ensure_future(held.aclose())
    _ending.add(task)
    task.add_done_callback(_ending.discard)
