"""Connections to one server: proxies, certificates, waiting, and trying again where it is safe."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx2

from localllm import __version__
from localllm.endpoints.endpoint import Endpoint
from localllm.endpoints.failures import EndpointSilent, refusal, unreachable
from localllm.endpoints.keys import Key
from localllm.errors import LocalLLMError, SourceUnreachable

_WRITE_S = 60.0
# Below the 5 s after which common servers (uvicorn) close: a request into a connection that is
# being closed would be lost, and may have been heard.
_KEPT_S = 4.0
_ERROR_BYTES = 64 << 10
_ERROR_S = 5.0
_FIRST_WAIT_S = 0.5
_BUSY = (429, 503, 529)


class Wire:
    """Requests to one endpoint, on one event loop."""

    def __init__(self, endpoint: Endpoint, key: Key | None) -> None:
        self._endpoint, self._key = endpoint, key
        self._client: httpx2.AsyncClient | None = None

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @asynccontextmanager
    async def ask(
        self, method: str, path: str, body: Any, limit: float
    ) -> AsyncIterator[httpx2.Response]:
        """An answer of status 2xx that has begun, by `limit` (the loop's time); its body is the
        caller's to read.

        Tried again, a few times, only where nothing came of the request: nobody took the
        connection, or the server says that it is busy and to come back soon. Raises the error of
        any other status, EndpointSilent, SourceUnreachable.
        """
        patience, loop = self._endpoint.patience, asyncio.get_running_loop()
        given_s = limit - loop.time()
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode(
            "utf-8", "replace"
        )  # fmt: skip
        for attempt in range(1, patience.tries + 1):
            wait_s: float | None = None
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout_at(limit):
                        made = self._stream(method, path, content)
                        response = await stack.enter_async_context(made)
                except TimeoutError:
                    raise self._silent(given_s) from None
                except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                    failed = self.failure(error)
                    again = isinstance(error, httpx2.ConnectError) and _may_pass(error)
                else:
                    if 200 <= response.status_code < 300:
                        yield response
                        return
                    failed = await self._refusal(response)
                    wait_s = _retry_after(response.headers.get("retry-after"))
                    again = response.status_code in _BUSY
            pause = wait_s if wait_s is not None else _backoff(attempt)
            late = loop.time() + pause > limit
            if not again or attempt == patience.tries or pause > patience.longest_wait_s or late:
                raise failed
            await asyncio.sleep(pause)

    def _stream(self, method: str, path: str, content: bytes | None) -> Any:
        headers = {"Accept": "text/event-stream, application/json"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        if self._key is not None:
            headers["Authorization"] = self._key.header
        url = self._endpoint.url + path
        return self._made().stream(method, url, content=content, headers=headers)

    async def body(self, response: httpx2.Response, limit_bytes: int) -> bytes:
        """The rest of an answer, at most so many bytes. Raises EndpointBroken, ..."""
        found = bytearray()
        try:
            async with aclosing(response.aiter_bytes()) as chunks:
                async for chunk in chunks:
                    found += chunk
                    if len(found) >= limit_bytes:
                        break
        except httpx2.HTTPError as error:
            raise self.failure(error) from None
        return bytes(found[:limit_bytes])

    def failure(self, error: Exception) -> LocalLLMError:
        return unreachable(self._endpoint.name, self._endpoint.host, error)

    def _silent(self, given_s: float) -> EndpointSilent:
        where = f"{self._endpoint.name} ({self._endpoint.host})"
        return EndpointSilent(f"{where} did not answer within {round(given_s, 1):g} s")

    async def _refusal(self, response: httpx2.Response) -> LocalLLMError:
        body = b""
        try:
            async with asyncio.timeout(_ERROR_S):
                body = await self.body(response, _ERROR_BYTES)
        except (TimeoutError, LocalLLMError):
            pass  # the status alone says enough
        return refusal(
            self._endpoint.name, self._endpoint.host, response.status_code, body, self._key,
            _retry_after(response.headers.get("retry-after")),
        )  # fmt: skip

    def _made(self) -> httpx2.AsyncClient:
        """On first use: certificates take a while to read, and loops are known only then."""
        if self._client is None:
            self._client = self._new_client()
        return self._client

    def _new_client(self) -> httpx2.AsyncClient:
        endpoint = self._endpoint
        try:
            return httpx2.AsyncClient(
                # A proxy is nothing for this machine itself, whatever NO_PROXY forgets to say.
                trust_env=not endpoint.is_this_machine,
                verify=_tls() if endpoint.url.startswith("https:") else _no_tls(),
                follow_redirects=False,  # the key is for this server alone
                headers={"User-Agent": f"localllm/{__version__}", "Accept-Encoding": "identity"},
                timeout=httpx2.Timeout(None, connect=endpoint.patience.connect_s, write=_WRITE_S),
                limits=httpx2.Limits(
                    max_connections=None, max_keepalive_connections=16, keepalive_expiry=_KEPT_S
                ),
            )
        except (ImportError, ValueError, httpx2.InvalidURL):
            raise SourceUnreachable(
                f"{endpoint.name} ({endpoint.host}): the proxy of the environment cannot be used",
                "name an http:// proxy in HTTPS_PROXY and HTTP_PROXY, or the host in NO_PROXY",
            ) from None


def _may_pass(error: httpx2.ConnectError) -> bool:
    """A refused connection may be one that a starting server takes a moment later; a name that
    nobody knows or a certificate stays what it is."""
    causes: list[BaseException | None] = [error]
    for one in causes:
        if isinstance(one, ssl.SSLError | OSError) and not isinstance(one, ConnectionError):
            return False
        if one is not None and len(causes) < 32:
            causes += [one.__cause__, one.__context__]
    return True


def _backoff(attempt: int) -> float:
    return float(_FIRST_WAIT_S * 2 ** (attempt - 1) * (0.5 + random.random() / 2))


def _retry_after(value: str | None) -> float | None:
    """Seconds, or an HTTP date. None if there is none to be read."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds < 1e9 else None


@cache
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


@cache
def _no_tls() -> ssl.SSLContext:
    """For plain http, which never gets to use it: the system's certificates need not be read."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
