"""HttpFetcher: everything the sources ask of a web server."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from localllm.errors import SourceFailed
from localllm.sources.base import Advance, Fetched
from localllm.sources.connect import Explain, Reply, Session
from localllm.sources.download import download
from localllm.sources.ledger import Tuning
from localllm.sources.retry import Patience, Transient, persist
from localllm.sources.stream import Target
from localllm.sources.urls import host_of
from localllm.sources.wire import MACHINE, Wires

T = TypeVar("T")

_SKIP_LIMIT_BYTES = 64 << 20  # how far into a file a server without ranges is read through
_NO_HEAD = frozenset((400, 403, 404, 405, 501))  # answers of servers that only know GET
_TOTAL = re.compile(r"bytes (?:\d+-\d+|\*)/(\d+)")


@dataclass(frozen=True)
class Head:
    """What a server says of a file. `url` is where redirects led."""

    url: str
    size_bytes: int | None
    etag: str | None
    accepts_ranges: bool
    headers: Mapping[str, str]  # names in lower case


@dataclass(frozen=True)
class Page:
    """A small answer, whole."""

    status: int
    url: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class HttpFetcher:
    """Small pages, ranges and files over HTTP, with retries. Safe to share between threads.

    `headers` go with every request (a method's own come on top) but secrets among them not to
    another host. `explain(status, headers, url)` gives a source the chance to name an error
    better than its status does; None keeps the usual one. Proxies, system settings included,
    and certificates are those of the environment, but for what `wires` says.
    Errors: SourceNotFound (404, 410), AccessDenied (401, 403), SourceUnreachable, SourceFailed.
    """

    def __init__(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        patience: Patience | None = None,
        tuning: Tuning | None = None,
        explain: Explain | None = None,
        wires: Wires = MACHINE,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._headers = dict(headers or {})
        self._patience = patience or Patience()
        self._tuning = tuning or Tuning()
        self._explain = explain
        self._wires = wires
        self._pause = pause
        self._idle: list[Session] = []
        weakref.finalize(self, _close, self._idle)

    def get(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        limit_bytes: int = 64 << 20,
        accept: frozenset[int] = frozenset(),
    ) -> Page:
        """A small answer, whole. Statuses in `accept` are given back, not raised.

        Raises SourceFailed where the body is longer than `limit_bytes`.
        """

        def once(session: Session) -> Page:
            reply = session.request(url, self._sent(headers), accept=accept)
            body = reply.read(limit_bytes + 1)
            if len(body) > limit_bytes:
                raise SourceFailed(f"{url} answered with more than {limit_bytes} bytes")
            return Page(reply.status, reply.url, reply.headers, body)

        return self._persist(once)

    def head(self, url: str, headers: Mapping[str, str] | None = None) -> Head:
        """Size, etag and the rest, without the file.

        Where HEAD is not answered with a size (some servers refuse it, signed addresses may be
        good for GET alone) the first byte is asked for instead.
        """

        def once(session: Session) -> Head:
            reply = session.request(url, self._sent(headers), method="HEAD", accept=_NO_HEAD)
            if reply.status < 300 and "content-length" in reply.headers:
                accepts = reply.headers.get("accept-ranges", "").lower() == "bytes"
                return _head(reply, int(reply.headers["content-length"]), accepts)
            wanted = {**self._sent(headers), "Range": "bytes=0-0"}
            reply = session.request(url, wanted, accept=frozenset((416,)))
            if reply.status == 200:
                return _head(reply, reply.length, False)
            return _head(reply, _total_of(reply), True)

        return self._persist(once)

    def read_range(
        self, url: str, start: int, length: int, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """At most `length` bytes from `start`; fewer only at the end of the file.

        A server without ranges is read through, where the range is not too far into the file.
        """
        if length <= 0:
            return b""
        wanted = {**self._sent(headers), "Range": f"bytes={start}-{start + length - 1}"}

        def once(session: Session) -> bytes:
            reply = session.request(url, wanted, accept=frozenset((416,)))
            if reply.status == 416:
                return b""
            if reply.headers.get("content-encoding", "identity") not in ("identity", ""):
                raise SourceFailed(f"{host_of(url)} sends {url} packed only")
            if reply.status == 206:
                if reply.headers.get("content-range", "").startswith(f"bytes {start}-"):
                    return reply.read(length)
                raise Transient(SourceFailed(f"{host_of(url)} sent another range than asked"))
            if start + length > _SKIP_LIMIT_BYTES:
                raise SourceFailed(f"{host_of(url)} serves no ranges of {url}")
            return reply.read(start + length)[start:]

        return self._persist(once)

    def fetch(
        self,
        url: str,
        partial: Path,
        *,
        expected_size: int | None = None,
        sha256: str | None = None,
        headers: Mapping[str, str] | None = None,
        advance: Advance = lambda count: None,
    ) -> Fetched:
        """Bring the file at `url` to `partial`, resuming what is there; see `download`.

        `expected_size` (bytes) and `sha256` (hex) are what the source published, where it did.
        Raises also ChecksumMismatch (the partial is deleted), DiskFull (kept) and
        HomeUnwritable.
        """
        target = Target(
            url=url,
            partial=partial,
            headers=self._sent(headers),
            expected_bytes=expected_size,
            sha256=sha256.lower() if sha256 else None,
            patience=self._patience,
            tuning=self._tuning,
            explain=self._explain,
            wires=self._wires,
        )
        return download(target, advance)

    def _sent(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        return {**self._headers, **(headers or {})}

    def _persist(self, once: Callable[[Session], T]) -> T:
        """Run `once` with retries, on connections left from earlier requests where there are."""
        try:
            session = self._idle.pop()  # atomic, so that threads do not share one
        except IndexError:
            session = Session(self._patience, self._explain, self._wires)
        try:
            result = persist(lambda: once(session), self._patience, self._pause)
        except BaseException:
            session.close()
            raise
        self._idle.append(session)
        return result


def file_name_of(head: Head) -> str | None:
    """The file name by the Content-Disposition header (RFC 6266), as sent; None without one."""
    value = head.headers.get("content-disposition", "")
    if extended := re.search(r"filename\*\s*=\s*([\w-]*)'[^']*'([^;\s]+)", value, re.IGNORECASE):
        try:
            return unquote(extended[2], encoding=extended[1] or "utf-8", errors="strict")
        except (LookupError, UnicodeDecodeError):
            pass  # an encoding nobody knows: the plain form is there for this
    plain = re.search(r'filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))', value, re.IGNORECASE)
    if plain is None:
        return None
    return re.sub(r"\\(.)", r"\1", plain[1]) if plain[1] is not None else plain[2]


def _close(sessions: list[Session]) -> None:
    for session in sessions:
        session.close()


def _head(reply: Reply, size_bytes: int | None, accepts_ranges: bool) -> Head:
    etag = reply.headers.get("etag")
    return Head(reply.url, size_bytes, etag, accepts_ranges, reply.headers)


def _total_of(reply: Reply) -> int | None:
    match = _TOTAL.fullmatch(reply.headers.get("content-range", "").strip())
    return int(match[1]) if match else None
