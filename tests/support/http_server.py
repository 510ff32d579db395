"""A real HTTP/1.1 server on loopback: files, ranges, a request log, and faults on demand.

`LoopbackServer` is the machinery; a protocol (Hub, Ollama, PyPI) is a subclass that answers
`respond(request)` with an `Answer` for the whole file. Ranges, HEAD, faults, throttling and
the log come from here, so every source is tested against the same misfortunes:

    class MyRegistry(LoopbackServer):
        def respond(self, request: Request) -> Answer:
            return Answer(body=self.blob(request.path), etag="abc")

    with MyRegistry() as server:
        server.fail("/blobs/*", Fault(cut_after=1000))          # the next matching GET
        server.fail("*", Fault(status=503), times=2)            # the next two GETs
        ...
        assert server.served_bytes("/blobs/*") <= size + chunk
"""

from __future__ import annotations

import ssl
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.http_messages import Answer, Fault, Request, next_block, range_of

__all__ = ["Answer", "Fault", "FileServer", "LoopbackServer", "Request"]

BLOCK_BYTES = 64 * 1024


@dataclass
class _Plan:
    pattern: str
    fault: Fault
    method: str
    left: int  # -1: for ever


class LoopbackServer:
    """A server in threads of this process, on 127.0.0.1 and a free port."""

    def __init__(self, port: int = 0, certificate: Path | None = None) -> None:
        """`certificate` (PEM, with its key) makes it https."""
        self.requests: list[Request] = []
        self.answering = 0  # requests logged and not yet answered
        self.closing = threading.Event()
        self._plans: list[_Plan] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _QuietServer(("127.0.0.1", port), handler)
        self._scheme = "http"
        if certificate is not None:
            self._scheme = "https"
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            # The handshake is done by the thread of the connection, not by the one that accepts
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def respond(self, request: Request) -> Answer:
        """What this server has at `request.path`. Subclasses say."""
        raise NotImplementedError

    def fail(self, pattern: str, fault: Fault, times: int = 1, method: str = "GET") -> None:
        """Let the next `times` requests whose path matches `pattern` meet `fault`.

        `times=-1` means every one from now on; the method "*" means any.
        """
        with self._lock:
            self._plans.append(_Plan(pattern, fault, method, times))

    def mend(self) -> None:
        """Forget every fault still planned."""
        with self._lock:
            self._plans.clear()

    def matching(self, pattern: str = "*", method: str = "GET") -> list[Request]:
        """The requests logged so far for `pattern`, in order."""
        with self._lock:
            return [r for r in self.requests if r.method == method and fnmatchcase(r.path, pattern)]

    def served_bytes(self, pattern: str = "*") -> int:
        """Bytes of bodies sent for GETs that match `pattern`.

        A client may have its last block before the server's thread has counted it: those
        that are still answering get a moment to finish.
        """
        deadline = time.monotonic() + 0.1
        while self.answering and time.monotonic() < deadline:
            time.sleep(0.002)
        return sum(r.sent_bytes for r in self.matching(pattern))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def other_url(self) -> str:
        """The same server under another host name, for redirects across hosts."""
        return f"{self._scheme}://localhost:{self.port}"

    def take_fault(self, request: Request) -> Fault:
        """The fault planned for this request; each plan is used up in the order it was made."""
        with self._lock:
            for plan in self._plans:
                if (
                    plan.left
                    and plan.method in ("*", request.method)
                    and fnmatchcase(request.path, plan.pattern)
                ):
                    plan.left -= 1 if plan.left > 0 else 0
                    return plan.fault
        return Fault()

    def log(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            self.answering += 1

    def answered(self) -> None:
        with self._lock:
            self.answering -= 1

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.02)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class FileServer(LoopbackServer):
    """Plain files: `server.add("/a.gguf", data)` returns the URL."""

    def __init__(self, port: int = 0, certificate: Path | None = None) -> None:
        super().__init__(port, certificate)
        self.answers: dict[str, Answer] = {}

    def add(
        self,
        path: str,
        body: bytes | Path = b"",
        *,
        etag: str | None = None,
        ranges: bool = True,
        headers: Mapping[str, str] = {},
    ) -> str:
        self.answers[path] = Answer(200, body, headers, etag, ranges)
        return self.url + path

    def respond(self, request: Request) -> Answer:
        return self.answers.get(request.path, Answer(404, b"no such file", ranges=False))


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that were killed or went away are what these tests are about."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError | ssl.SSLError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    owner: LoopbackServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body)
        self.owner.log(request)
        try:
            self._answer(request)
        finally:
            self.owner.answered()

    def _answer(self, request: Request) -> None:
        fault = self.owner.take_fault(request)
        if fault.drop:
            self.close_connection = True
            return
        if fault.status is not None:
            answer = Answer(fault.status, b"", ranges=False)
        else:
            answer = self.owner.respond(request)
        with suppress(ConnectionError, TimeoutError):
            self._send(request, answer, fault)

    def _send(self, request: Request, answer: Answer, fault: Fault) -> None:
        size = answer.size_bytes
        start, end = 0, size
        status = answer.status
        extra: dict[str, str] = {}
        if answer.ranges and status == 200:
            extra["Accept-Ranges"] = "bytes"
            asked = request.headers.get("range")
            if asked and not fault.ignore_range and self._if_range_holds(request, answer, fault):
                cut = range_of(asked, size)
                if cut is None:
                    status, start, end = 416, 0, 0
                    extra["Content-Range"] = f"bytes */{size}"
                else:
                    status, (start, end) = 206, cut
                    extra["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if etag := fault.etag or answer.etag:
            extra["ETag"] = f'"{etag}"'
        if fault.content_encoding:
            extra["Content-Encoding"] = fault.content_encoding
        self._send_head(request, status, end - start, {**extra, **answer.headers}, fault)
        if request.method != "HEAD" and status not in (204, 304):
            self._send_body(request, answer, start, end - start, fault)

    @staticmethod
    def _if_range_holds(request: Request, answer: Answer, fault: Fault) -> bool:
        wanted = request.headers.get("if-range")
        return wanted is None or wanted.strip('"') == (fault.etag or answer.etag)

    def _send_head(
        self, request: Request, status: int, length: int, headers: dict[str, str], fault: Fault
    ) -> None:
        request.status = status
        self.send_response(status)
        for name, value in {**headers, **fault.headers}.items():
            self.send_header(name, value)
        if fault.no_length:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length + fault.more_length))
        self.end_headers()
        if fault.no_length or fault.more_length:
            self.close_connection = True

    def _send_body(
        self, request: Request, answer: Answer, start: int, length: int, fault: Fault
    ) -> None:
        with answer.open() as source:
            if fault == Fault() and isinstance(answer.body, Path):
                self.connection.settimeout(60)
                if length:
                    request.sent_bytes = self.connection.sendfile(source, start, length)
                return
            source.seek(start)
            while request.sent_bytes < length:
                self._misbehave(request, fault)
                if self.close_connection and request.sent_bytes == fault.cut_after:
                    return
                block = source.read(next_block(request.sent_bytes, length, fault, BLOCK_BYTES))
                if fault.wrong_bytes and request.sent_bytes == 0:
                    block = bytes([block[0] ^ 0xFF]) + block[1:]
                self.wfile.write(block)
                request.sent_bytes += len(block)
                if fault.bytes_per_s:
                    time.sleep(len(block) / fault.bytes_per_s)

    def _misbehave(self, request: Request, fault: Fault) -> None:
        if fault.cut_after is not None and request.sent_bytes >= fault.cut_after:
            self.close_connection = True
        if fault.stall_after is not None and request.sent_bytes == fault.stall_after:
            self.owner.closing.wait(fault.stall_s)
