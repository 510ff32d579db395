"""uvicorn's HTTP protocol with the limits that it lacks.

It has no time for a request's head to come, no bound on its size, and no way to drop what a
client does not take: closing a connection waits until all was sent.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from localllm.serve.web.limits import Limits


class Connection(HttpToolsProtocol):
    """One client's connection. `limits` is set for all before the first."""

    limits: ClassVar[Limits] = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._in_head = True
        self._timer = self.loop.call_later(self.limits.head_s, self._too_late)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            # The first bytes of a body may come with the head.
            if self._head_bytes > self.limits.head_bytes + (256 << 10):
                self._refuse(431, "the request's head is too large")
                return
        super().data_received(data)
        if self._in_head and self._head_bytes > self.limits.head_bytes:
            self._refuse(431, "the request's head is too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cut: dict[object, object] = {"abort": self.transport.abort}
        self.scope["extensions"] = {"localllm": cut}
        if not self._in_head:
            self._in_head, self._head_bytes = True, 0
            self._timer.cancel()
            self._timer = self.loop.call_later(self.limits.head_s, self._too_late)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._timer.cancel()
        super().on_headers_complete()

    def timeout_keep_alive_handler(self) -> None:
        """No next request came; what the client has not taken by now it never will."""
        if not self.transport.is_closing():
            self.transport.close()
            self._timer = self.loop.call_later(self.limits.stall_s, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no HTTP request")

    def _too_late(self) -> None:
        if self._in_head and not self.transport.is_closing():
            idle = self.parser is not None and not self._head_bytes
            if idle:
                self.transport.abort()
            else:
                self._refuse(408, "the request's head did not come in time")

    def _refuse(self, status: int, message: str) -> None:
        """Answer without the application, and close."""
        if self.transport.is_closing():
            return
        error: dict[str, Any] = {"message": message, "type": "invalid_request_error"}
        body = json.dumps({"error": error | {"param": None, "code": None}}).encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
        self._timer.cancel()
        self._timer = self.loop.call_later(self.limits.stall_s, self.transport.abort)


_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
