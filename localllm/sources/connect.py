"""Requests over kept-alive connections: redirects, proxies, TLS, and errors by name.

On `http.client` rather than a full HTTP library: measured on loopback, reading the body
straight from the socket into one reused buffer brought about 900 MB/s on one core, urllib3
800, httpx2 480, and httpx2 in chunks of 10 MiB, as huggingface_hub reads, 250.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from localllm import __version__
from localllm.closing import Closing
from localllm.errors import (
    AccessDenied,
    LocalLLMError,
    SourceFailed,
    SourceNotFound,
    SourceUnreachable,
)
from localllm.sources.retry import TRANSIENT_STATUS, Patience, Transient, retry_after_s
from localllm.sources.urls import (
    Origin,
    credentials,
    host_of,
    normal_url,
    origin_of,
    redirected,
    target_of,
)
from localllm.sources.wire import MACHINE, Wires, new_connection, proxy_credentials

MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
SECRET_HEADERS = ("authorization", "cookie")

# Gives the error for a status at a URL, or None for the usual one.
Explain = Callable[[int, Mapping[str, str], str], LocalLLMError | None]


class Reply:
    """An open answer. Headers are in lower case. Close it, or read it to its end."""

    def __init__(self, response: http.client.HTTPResponse, url: str) -> None:
        self.status = response.status
        self.url = url
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.length = response.length  # bytes of this body, None where only its end tells
        self._response = response
        self._left = response.length

    def read_into(self, buffer: memoryview) -> int:
        """What has arrived, at most `len(buffer)` bytes; 0 at the end.

        One receive, straight into `buffer`: nothing that came is lost when the next one times
        out. Raises Transient where the connection broke, stalled or ended too early.
        """
        try:
            count = self._read_into(buffer)
        except (OSError, http.client.HTTPException) as e:
            raise broken(e, self.url) from e
        if count == 0 and self._left and len(buffer):
            raise Transient(SourceUnreachable(f"{host_of(self.url)} closed the connection early"))
        return count

    def _read_into(self, buffer: memoryview) -> int:
        if self._response.chunked:
            data = self._response.read1(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        if self._left is None:
            return self._response.fp.readinto1(buffer)
        count = self._response.fp.readinto1(buffer[: self._left]) if self._left else 0
        self._left -= count
        return count

    def read(self, limit: int) -> bytes:
        """The body, at most `limit` bytes of it."""
        parts = bytearray(min(limit, 1 << 16 if self._left is None else self._left))
        got = 0
        while got < limit:
            if got == len(parts):
                parts.extend(bytes(min(limit - got, max(got, 1 << 16))))
            with memoryview(parts) as view:
                count = self.read_into(view[got:])
            if count == 0:
                break
            got += count
        return bytes(parts[:got])

    @property
    def finished(self) -> bool:
        """Whether the connection can serve another request."""
        return self._left == 0 and not self._response.will_close

    def close(self) -> None:
        self._response.close()


class Session(Closing):
    """One thread's connections, kept alive by origin; one request at a time.

    Only `abort` may be called from another thread.
    """

    def __init__(
        self, patience: Patience, explain: Explain | None = None, wires: Wires = MACHINE
    ) -> None:
        self._patience = patience
        self._wires = wires
        self._explain = explain
        self._open: dict[Origin, http.client.HTTPConnection] = {}
        self._reply: tuple[Origin, Reply] | None = None
        self._lock = threading.Lock()
        self._aborted = False

    def request(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        accept: frozenset[int] = frozenset(),
    ) -> Reply:
        """Ask for `url`, follow redirects, give the answer where it is 2xx or in `accept`.

        Secrets in the headers are not carried to another host, and https never falls back to
        http. Raises AccessDenied, SourceNotFound, SourceFailed, SourceUnreachable, or Transient
        around one of them where another try may help.
        """
        self._finish()
        sent = {"User-Agent": f"localllm/{__version__}", "Accept-Encoding": "identity", **headers}
        url = normal_url(url)
        for _ in range(MAX_REDIRECTS + 1):
            origin = origin_of(url)
            reply = self._send(method, url, origin, sent)
            self._reply = (origin, reply)
            location = reply.headers.get("location")
            if reply.status not in _REDIRECTS or location is None:
                if reply.status in accept or 200 <= reply.status < 300:
                    return reply
                raise self._refusal(reply)
            self._finish()
            url = redirected(url, location)
            if origin_of(url) != origin:
                sent = {n: v for n, v in sent.items() if n.lower() not in SECRET_HEADERS}
        raise SourceFailed(f"{host_of(url)} redirects in a circle")

    def abort(self) -> None:
        """Wake whoever reads from this session; later requests fail."""
        with self._lock:
            self._aborted = True
            for connection in self._open.values():
                _shut(connection)

    def close(self) -> None:
        self._reply = None
        with self._lock:
            for connection in self._open.values():
                connection.close()
            self._open.clear()

    def _finish(self) -> None:
        """Make room for the next request: an answer read to its end leaves its connection."""
        if self._reply is None:
            return
        origin, reply = self._reply
        self._reply = None
        if not reply.finished and reply.length and reply.length <= 1 << 16:
            with suppress(Transient):
                reply.read(1 << 16)  # the few words of a redirect or an error page
        reply.close()
        if not reply.finished:
            self._forget(origin)

    def _forget(self, origin: Origin) -> None:
        with self._lock:
            if connection := self._open.pop(origin, None):
                connection.close()

    def _send(self, method: str, url: str, origin: Origin, headers: Mapping[str, str]) -> Reply:
        proxy = self._wires.proxy_for(origin)
        target = url if proxy and origin.scheme == "http" else target_of(url)
        sent = {**headers, **credentials(url)}
        if proxy and origin.scheme == "http":
            sent |= proxy_credentials(proxy)
        while True:
            reused = origin in self._open
            try:
                connection = self._connection(origin, proxy)
                connection.request(method, target, headers=sent)
                return Reply(connection.getresponse(), url)
            except (OSError, http.client.HTTPException) as e:
                self._forget(origin)
                # A kept connection that the server has closed meanwhile: once more, afresh.
                if reused and isinstance(e, ConnectionError):
                    continue
                raise broken(e, url) from e

    def _connection(self, origin: Origin, proxy: str | None) -> http.client.HTTPConnection:
        with self._lock:
            if self._aborted:
                raise ConnectionAbortedError("stopped")
            if existing := self._open.get(origin):
                return existing
        connection = new_connection(origin, proxy, self._patience.connect_s, self._wires)
        connection.connect()
        connection.sock.settimeout(self._patience.stall_s)
        with self._lock:
            self._open[origin] = connection
            if self._aborted:
                _shut(connection)
        return connection

    def _refusal(self, reply: Reply) -> Exception:
        """The error for an answer that is none; a Transient where trying again may help."""
        error = self._explain(reply.status, reply.headers, reply.url) if self._explain else None
        error = error or status_error(reply.status, reply.url)
        if reply.status in TRANSIENT_STATUS:
            return Transient(error, retry_after_s(reply.headers.get("retry-after")))
        return error


def status_error(status: int, url: str) -> LocalLLMError:
    """The error that a status means where the source knows nothing better."""
    host, path = host_of(url), unquote(urlsplit(url).path)
    if status in (401, 403, 407):
        return AccessDenied(f"{host} refuses access to {path} (status {status})")
    if status in (404, 410):
        return SourceNotFound(f"{host} has no {path}")
    if status == 429:
        return SourceFailed(f"{host} says there were too many requests (status 429)")
    return SourceFailed(f"{host} answered with status {status} for {path}")


def broken(error: OSError | http.client.HTTPException, url: str) -> Exception:
    """What a failed connection is called: a Transient, unless trying again cannot help."""
    host = host_of(url)
    if isinstance(error, ssl.SSLCertVerificationError):
        return SourceUnreachable(
            f"the certificate of {host} is not trusted: {error.verify_message}",
            "behind a proxy that inspects TLS, point SSL_CERT_FILE at its certificate",
        )
    if isinstance(error, socket.gaierror):
        unknown = SourceUnreachable(f"{host} cannot be found (no network, or no such host)")
        return Transient(unknown, answered=False)
    if isinstance(error, TimeoutError):
        return Transient(SourceUnreachable(f"{host} went silent (time-out)"))
    if isinstance(error, http.client.IncompleteRead):
        return Transient(SourceUnreachable(f"{host} closed the connection early"))
    # Before HTTPException: http.client's RemoteDisconnected is both
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return Transient(SourceUnreachable(f"{host} broke the connection"))
    if isinstance(error, http.client.HTTPException):
        return Transient(SourceFailed(f"{host} does not speak HTTP as it should"))
    reason = error.strerror or str(error)
    return Transient(SourceUnreachable(f"{host} cannot be reached: {reason}"), answered=False)


def _shut(connection: http.client.HTTPConnection) -> None:
    if isinstance(connection.sock, socket.socket):
        with suppress(OSError):  # it was down already
            connection.sock.shutdown(socket.SHUT_RDWR)
