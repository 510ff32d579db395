"""One request and its answer: who waits, what was sent, and when it was last taken."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from localllm.serve.web.problems import Failure

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

GONE = 499  # what logs call it when the client left first


@dataclass
class Usage:
    """What a request used, for the log and the metrics."""

    model: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    finish: str = ""


@dataclass(eq=False)
class Exchange:
    """Made by the boundary for each request; handlers find it in their scope.

    Once the body has been read, somebody waits for the connection's end: a client that leaves
    takes the task that works for it along, whatever that is doing.
    """

    scope: Scope
    receive_raw: Receive
    send_raw: Send
    begun: float = field(default_factory=time.perf_counter)
    usage: Usage = field(default_factory=Usage)
    status: int = 0
    n_sent: int = 0
    gone: bool = False
    complete: bool = False
    ping: bytes | None = None  # what keeps a silent stream alive
    last_sent: float = 0.0
    writing_since: float | None = None
    stop: Callable[[], None] | None = None  # ends what the request computes
    id: str = field(default_factory=lambda: f"req_{secrets.token_hex(16)}")
    headers: dict[str, str] = field(default_factory=dict)  # go out beside the answer's own

    def __post_init__(self) -> None:
        self.headers["x-request-id"] = self.id  # clients keep it, to name a request by
        self._task = asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def started(self) -> bool:
        """The head of the answer is out."""
        return self.status != 0

    # --- the two ends of ASGI ------------------------------------------------------------

    async def receive(self) -> Message:
        message = await self.receive_raw()
        if message["type"] == "http.disconnect":
            self.gone = not self.complete
        elif not message.get("more_body") and self._watch is None:
            self._watch = asyncio.create_task(self._until_gone())
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [(n.encode("latin-1"), v.encode("latin-1", "replace"))
                   for n, v in self.headers.items()]  # fmt: skip
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        elif not message.get("more_body"):
            self.complete = True
        self.n_sent += len(message.get("body", b""))
        self.writing_since = time.monotonic()
        try:
            await self.send_raw(message)
        finally:
            self.last_sent, self.writing_since = time.monotonic(), None

    async def _until_gone(self) -> None:
        while not self.complete:
            message = await self.receive_raw()
            if message["type"] == "http.disconnect":
                if not self.complete and self._task is not None:
                    self.gone = True
                    self._task.cancel()
                return

    # --- from the boundary and its clock ---------------------------------------------------

    async def fail(self, failure: Failure) -> None:
        """Answer with an error; where an answer has begun already, cut the connection."""
        if self.started:
            self.abort()
            return
        body = json.dumps(failure.body(self.path)).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        headers |= {name.lower(): value for name, value in failure.headers.items()}
        await self.send(
            {
                "type": "http.response.start",
                "status": failure.status,
                "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
            }
        )
        await self.send({"type": "http.response.body", "body": body})

    def abort(self) -> None:
        """Cut the connection: what was not taken is dropped."""
        extensions: dict[str, Any] = self.scope.get("extensions") or {}
        cut = extensions.get("localllm", {}).get("abort")
        if cut is not None:
            cut()

    async def tick(self, now: float, stall_s: float, ping_s: float) -> None:
        """About once a second."""
        since = self.writing_since
        if since is not None:
            if now - since > stall_s:
                self.gone = True
                self.abort()
                if self._task is not None:
                    self._task.cancel()
        elif self.ping is not None and not self.complete and now - self.last_sent > ping_s:
            await self.send({"type": "http.response.body", "body": self.ping, "more_body": True})

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch


def exchange_of(scope: Scope) -> Exchange:
    found = scope["localllm.exchange"]
    assert isinstance(found, Exchange)
    return found
