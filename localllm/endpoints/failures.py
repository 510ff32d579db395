"""What servers elsewhere do wrong, as errors: one line each, without secrets."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import httpx2

from localllm.endpoints.keys import Key
from localllm.errors import AccessDenied, LocalLLMError, SourceFailed, SourceUnreachable

_LONGEST = 300  # characters of what a server says
_SPACE = re.compile(r"\s+")
_CONTEXT_CODES = ("context_length_exceeded", "exceed_context_size_error", "context_window_exceeded")
_CONTEXT_WORDS = re.compile(
    r"context (length|size|window)|a context of|maximum context|too many tokens|prompt is too long",
    re.IGNORECASE,
)


class EndpointBusy(SourceFailed):
    """Too much to do there (429, 503). `retry_after_s` is what it asked for, None if nothing."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, "try again later")
        self.retry_after_s = retry_after_s


class EndpointSilent(SourceUnreachable):
    """It did not answer, or went silent, within its time."""


class EndpointBroken(SourceFailed):
    """What came is no answer: malformed, cut off, or too much."""


class RequestRefused(SourceFailed):
    """The server refused this request (another 4xx): another try would end the same way."""

    def __init__(self, message: str, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class ContextFull(RequestRefused):
    """The conversation is longer than what the server's model can read."""


def one_line(text: str, key: Key | None = None) -> str:
    """What a server says, as part of one of our lines: short, printable, without our key."""
    clean = text if key is None else key.hide(text)
    clean = "".join(c if c.isprintable() else " " for c in clean[: 4 * _LONGEST])
    clean = _SPACE.sub(" ", clean).strip()
    return clean if len(clean) <= _LONGEST else clean[: _LONGEST - 1] + "…"


def said_of(body: bytes | Mapping[str, Any], key: Key | None) -> tuple[str, str | None]:
    """(message, code) of an error as servers write it: OpenAI, Ollama, FastAPI, or a page."""
    value: Any = body
    if isinstance(body, bytes):
        text = body.decode("utf-8", "replace")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = "" if "<html" in text[:2000].lower() else text
    if not isinstance(value, Mapping):
        return one_line(value if isinstance(value, str) else "", key), None
    error = value.get("error", value)
    if isinstance(error, str):
        return one_line(error, key), None
    if not isinstance(error, Mapping):
        return "", None
    found = error.get("message") or error.get("detail") or error.get("error") or ""
    code = error.get("code") or error.get("type")
    text = found if isinstance(found, str) else json.dumps(found)
    return one_line(text, key), one_line(str(code)) if isinstance(code, str | int) else None


def refusal(
    name: str, host: str, status: int, body: bytes, key: Key | None, retry_after_s: float | None
) -> LocalLLMError:
    """The error for an answer whose status is none of 2xx."""
    said, code = said_of(body, key)
    tail = f": {said}" if said else ""
    if status in (401, 403, 407):
        return _denied(name, host, status, key, tail)
    if status in (429, 503, 529):
        # OpenAI says 429 for an account without money too: no waiting helps there
        if code == "insufficient_quota":
            return AccessDenied(f"{name} ({host}) has no credit left{tail}")
        return EndpointBusy(f"{name} ({host}) is busy (status {status}){tail}", retry_after_s)
    if status in (400, 413, 422) and _is_context(said, code):
        return ContextFull(f"the conversation is too long for {name}{tail}", status, code)
    if status in (404, 405):
        hint = f"localllm endpoint check {name}"
        error = RequestRefused(
            f"{name} ({host}) knows no such model or address{tail}", status, code
        )
        error.hint = hint
        return error
    if 300 <= status < 400:
        return SourceFailed(f"{name} ({host}) sends elsewhere (status {status})",
                            "add it with the URL where its API is")  # fmt: skip
    if status < 500:
        return RequestRefused(f"{name} ({host}) refuses (status {status}){tail}", status, code)
    return SourceFailed(f"{name} ({host}) failed (status {status}){tail}")


def _denied(name: str, host: str, status: int, key: Key | None, tail: str) -> AccessDenied:
    if key is None:
        return AccessDenied(
            f"{name} ({host}) wants a key (status {status}){tail}",
            f"add it again with --key-env NAME: localllm endpoint add {name} --replace ...",
        )
    where = f"the key from the {key.source}"
    return AccessDenied(f"{name} ({host}) refuses {where} (status {status}){tail}",
                        f"put the right key into the {key.source}")  # fmt: skip


def told(name: str, error: Mapping[str, Any], key: Key | None) -> LocalLLMError:
    """An error object in the middle of an answer."""
    said, code = said_of(error, key)
    if _is_context(said, code):
        return ContextFull(f"the conversation is too long for {name}: {said}", 400, code)
    return SourceFailed(f"{name} failed in the middle of its answer: {said or code or 'no reason'}")


def unreachable(name: str, host: str, error: Exception) -> LocalLLMError:
    """What a failed connection is called."""
    where = f"{name} ({host})"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return SourceUnreachable(
                f"the certificate of {where} is not trusted: {cause.verify_message}",
                "for a certificate of your own, point SSL_CERT_FILE at its authority",
            )
        if isinstance(cause, ssl.SSLError):
            reason = (cause.reason or "no common protocol").replace("_", " ").lower()
            return SourceUnreachable(
                f"{where} does not speak TLS as it should: {reason}", "is it http:// and not https?"
            )
    if isinstance(error, httpx2.ProxyError):
        return SourceUnreachable(f"the proxy to {where} refuses: {one_line(str(error))}",
                                 "look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY")  # fmt: skip
    if isinstance(error, httpx2.ConnectTimeout):
        return EndpointSilent(f"{where} did not take the connection in time")
    if isinstance(error, httpx2.TimeoutException):
        return EndpointSilent(f"{where} went silent")
    if isinstance(error, httpx2.ConnectError):
        reasons = [_reason(cause) for cause in _causes(error) if isinstance(cause, OSError)]
        reason = next((one for one in reasons if one), "no connection")
        return SourceUnreachable(f"{where} cannot be reached: {reason}")
    if isinstance(error, httpx2.RemoteProtocolError):
        return EndpointBroken(f"{where} does not speak HTTP as it should, or left without a word")
    return EndpointBroken(f"{where} broke the connection")


def _reason(error: OSError) -> str:
    """The system's words alone: asyncio writes addresses into its own."""
    if isinstance(error, socket.gaierror):
        return "no such host, or no network"
    return os.strerror(error.errno).lower() if error.errno else ""


def _causes(error: BaseException) -> list[BaseException]:
    """The chain that led to it, the innermost first; groups are from several addresses tried."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(found) < 32:
        one = waiting.pop()
        if one is None or one in found:
            continue
        found.append(one)
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return found[::-1]


def _is_context(said: str, code: str | None) -> bool:
    return code in _CONTEXT_CODES or bool(_CONTEXT_WORDS.search(said))
