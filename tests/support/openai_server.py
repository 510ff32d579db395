"""A hand-written server on loopback that says what the test wants, at the socket's own level.

with OpenAIServer(stream(chunk("Hi"), chunk(finish="stop"), DONE)) as server: ...

A script gets the connection and the request, and does as it likes: right, wrong, slow, nothing.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DONE = b"data: [DONE]\n\n"


@dataclass
class Asked:
    """A request as it came. Header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Script = Callable[[socket.socket, Asked], None]


@dataclass
class OpenAIServer:
    """Each connection is one request; `script` answers it, or the first of `scripts` that is left.
    `gone` is set when a client closed the connection while its script was waiting for that."""

    script: Script | Sequence[Script]
    certificate: Path | None = None
    asked: list[Asked] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._scripts = list(self.script) if isinstance(self.script, Sequence) else None
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._listener.close()

    @property
    def url(self) -> str:
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://127.0.0.1:{self.port}/v1"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError, ssl.SSLError), connection:
            connection.settimeout(30)
            if self.certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.certificate)
                connection = context.wrap_socket(connection, server_side=True)
            asked = _read(connection)
            if asked is None:
                return
            self.asked.append(asked)
            script = self.script if self._scripts is None else self._scripts.pop(0)
            assert callable(script)
            script(connection, asked)

    def until_gone(self, connection: socket.socket) -> None:
        """Wait until the client closes."""
        with suppress(OSError):
            while connection.recv(1024):
                pass
        self.gone.set()


def _read(connection: socket.socket) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    method, path, _ = first.split(" ")
    return Asked(method, path, headers, body)


# --- what scripts are made of ---------------------------------------------------------------


def chunk(
    text: str | None = None,
    finish: str | None = None,
    *,
    index: int = 0,
    delta: Mapping[str, Any] | None = None,
    **more: Any,
) -> bytes:
    """One chunk of a chat completion as a server-sent event."""
    made = dict(delta or ({} if text is None else {"content": text}))
    choice = {"index": index, "delta": made, "finish_reason": finish}
    return event(
        {"object": "chat.completion.chunk", "model": "remote", "choices": [choice], **more}
    )


def usage(prompt: int, completion: int, cached: int = 0) -> bytes:
    details = {"cached_tokens": cached}
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return event({"choices": [], "usage": {**counts, "prompt_tokens_details": details}})


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"


def stream(*pieces: bytes) -> Script:
    """These bytes after the head of a stream, and the end of the connection."""

    def script(connection: socket.socket, asked: Asked) -> None:
        connection.sendall(SSE + b"Connection: close\r\n\r\n")
        for piece in pieces:
            connection.sendall(piece)

    return script


def answer(value: Any, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> Script:
    """A whole answer: JSON, or bytes as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    sent = {"Content-Type": "application/json", "Content-Length": str(len(body)),
            "Connection": "close", **(headers or {})}  # fmt: skip
    lines = [f"HTTP/1.1 {status}", *(f"{k}: {v}" for k, v in sent.items())]

    def script(connection: socket.socket, asked: Asked) -> None:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return script


def raw(data: bytes) -> Script:
    return lambda connection, asked: connection.sendall(data)
