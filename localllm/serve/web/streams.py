"""An answer in lines: server-sent events, or JSON a line."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from localllm.serve.web.exchange import Exchange, exchange_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive, Scope, Send

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
_PING = b": waiting\n\n"  # a comment, which every client leaves out


class LineStream(Response):
    """Sends what `lines` yields, each at once. A client that takes nothing makes `lines` wait."""

    def __init__(
        self,
        lines: AsyncGenerator[bytes, None],
        media_type: str,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`close` is called at the end, also where nobody ever asked for the first line."""
        # Proxies (nginx) would collect the stream otherwise.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        self.background = None
        self.status_code = 200
        self.media_type = media_type
        self.body = b""
        self._lines, self._close = lines, close
        self.init_headers(headers)
        self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._lines):
                await self._send(exchange_of(scope), send)
        finally:
            if self._close is not None:
                await self._close()

    async def _send(self, exchange: Exchange, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if self.media_type == SSE:
            exchange.ping = _PING
        async for one in self._lines:
            await send({"type": "http.response.body", "body": one, "more_body": True})
        exchange.ping = None
        await send({"type": "http.response.body", "body": b""})


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def compact(value: Any) -> bytes:
    return _encode(value).encode("utf-8", "replace")


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + compact(value) + b"\n\n"


def line(value: Any) -> bytes:
    """One line of NDJSON."""
    return compact(value) + b"\n"
