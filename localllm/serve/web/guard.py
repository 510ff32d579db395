"""Who may ask: the name it was asked by, the page that asks, and the key."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from localllm.serve.web.problems import RequestProblem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Answered to everyone: that it lives, and pages that hold nothing but themselves.
_OPEN = ("/", "/health", "/docs", "/openapi.json", "/favicon.ico")
_CORS_HEADERS = b"authorization, content-type, x-api-key"
_HARDENED = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


@dataclass(frozen=True)
class Rules:
    """`keys` empty: nobody needs one. `hosts` are names that it may be asked by beside addresses
    and localhost ("*": any); `origins` are pages elsewhere that may ask ("*": any)."""

    keys: tuple[str, ...] = ()
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()


class Guard:
    """Refuses before anything is read.

    A web page elsewhere can make a browser send requests here (a form needs no permission to be
    posted), and with a name of its own that it points at 127.0.0.1 it could even read the answers
    (DNS rebinding). The first is told by Origin, the second by Host.
    """

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules
        self._digests = [_digest(key.encode()) for key in rules.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value for name, value in scope["headers"] if name in _LOOKED_AT}
        self._check_host(headers.get(b"host", b""))
        origin = headers.get(b"origin")
        allowed = self._check_origin(origin, headers)
        if allowed and scope["method"] == "OPTIONS":
            await _preflight(send, origin or b"")
            return
        if self._digests and scope["path"] not in _OPEN and scope["method"] != "OPTIONS":
            self._check_key(headers)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [*_HARDENED, *(_cors(origin or b"") if allowed else ())]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await self._app(scope, receive, answer)

    def _check_host(self, host: bytes) -> None:
        hosts = self._rules.hosts
        if "*" in hosts or _is_ours(host.decode("latin-1"), hosts):
            return
        raise RequestProblem(
            f"this server is not called {host.decode('latin-1')[:80]!r} (--allow-host)",
            status=403, code="host_not_allowed",
        )  # fmt: skip

    def _check_origin(self, origin: bytes | None, headers: dict[bytes, bytes]) -> bool:
        """Whether a page elsewhere asks, and may. Raises RequestProblem if it may not."""
        if origin is None:
            # Old browsers say no Origin with a GET; new ones say at least this.
            if headers.get(b"sec-fetch-site") == b"cross-site" and not self._rules.origins:
                mode = headers.get(b"sec-fetch-mode")
                if mode != b"navigate":
                    raise self._foreign("another site")
            return False
        text = origin.decode("latin-1")
        if urlsplit(text).netloc.casefold() == headers.get(b"host", b"").decode("latin-1").lower():
            return False
        if "*" in self._rules.origins or text in self._rules.origins:
            return True
        raise self._foreign(text[:80])

    def _foreign(self, who: str) -> RequestProblem:
        return RequestProblem(
            f"pages of {who} may not ask this server (--cors)",
            status=403, code="origin_not_allowed",
        )  # fmt: skip

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        given = headers.get(b"x-api-key", b"")
        scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            given = value.strip()
        digest = _digest(given)
        # Every key is compared whole, of digests of one length: time tells nothing.
        matches = [hmac.compare_digest(digest, one) for one in self._digests]
        if not any(matches):
            raise RequestProblem(
                "an API key is needed: Authorization: Bearer KEY" if not given
                else "this API key is not known here",
                status=401, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


_LOOKED_AT = frozenset(
    {b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"authorization", b"x-api-key"}
)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _is_ours(host: str, names: Iterable[str]) -> bool:
    """An address cannot be rebound; localhost is this machine; other names have to be told."""
    name = _without_port(host).casefold().rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name in names:
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _without_port(host: str) -> str:
    if host.startswith("["):
        address, _, rest = host.partition("]")
        return f"{address}]" if not rest or rest.startswith(":") else host
    return host.partition(":")[0]


def _cors(origin: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"access-control-allow-origin", origin), (b"vary", b"Origin"))


async def _preflight(send: Send, origin: bytes) -> None:
    headers = [
        *_cors(origin),
        (b"access-control-allow-methods", b"GET, POST, DELETE, HEAD"),
        (b"access-control-allow-headers", _CORS_HEADERS),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
