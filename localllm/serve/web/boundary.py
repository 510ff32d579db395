"""The outermost layer: errors become answers, vanished clients become nothing, all is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from localllm.errors import LocalLLMError
from localllm.serve.web.exchange import GONE, Exchange
from localllm.serve.web.limits import Limits
from localllm.serve.web.problems import Failure, phrase

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# Told of each request when it has ended, and of a bug with what was raised.
Finished = Callable[[Exchange, float, BaseException | None], None]


class Boundary:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, limits: Limits, finished: Finished) -> None:
        self._app = app
        self._limits = limits
        self._finished = finished
        self.open: set[Exchange] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        scope["localllm.exchange"] = exchange
        scope["app"] = self  # so that the router raises what it does not find
        self.open.add(exchange)
        bug: BaseException | None = None
        try:
            bug = await self._answer(exchange)
        finally:
            self.open.discard(exchange)
            await exchange.close()
            if exchange.gone:
                exchange.status = GONE
            self._finished(exchange, time.perf_counter() - exchange.begun, bug)

    async def _answer(self, exchange: Exchange) -> BaseException | None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not exchange.gone or task is None:
                raise
            task.uncancel()  # it was for a client who left
        except LocalLLMError as error:
            await self._fail(exchange, Failure.of(error))
        except HTTPException as error:
            message = f"{exchange.scope['method']} {exchange.path}: {phrase(error.status_code)}"
            await self._fail(
                exchange, Failure(error.status_code, message, headers=error.headers or {})
            )
        except Exception as error:  # noqa: BLE001 - a bug in one request must not end the others
            await self._fail(exchange, Failure(500, "internal error", code="internal_error"))
            return error
        return None

    async def _fail(self, exchange: Exchange, failure: Failure) -> None:
        if not exchange.gone:
            await exchange.fail(failure)

    async def clock(self) -> None:
        """Runs for as long as the server: pings silent streams, cuts off who takes nothing."""
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for exchange in list(self.open):
                await exchange.tick(now, self._limits.stall_s, self._limits.ping_s)

    def stop_all(self) -> None:
        """End what is being computed, so that every stream ends."""
        for exchange in list(self.open):
            if exchange.stop is not None:
                exchange.stop()
