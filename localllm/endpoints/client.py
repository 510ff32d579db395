"""EndpointClient: what is asked of one server, on the event loop that uses it."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx2

from localllm.endpoints.endpoint import Endpoint
from localllm.endpoints.failures import (
    EndpointBroken,
    EndpointSilent,
    RequestRefused,
    one_line,
    told,
)
from localllm.endpoints.keys import Key
from localllm.endpoints.listing import (
    Embedded,
    Listed,
    embedded_of,
    kind_of,
    model_of,
)
from localllm.endpoints.reading import Delta, Ended, Reading
from localllm.endpoints.sse import EventReader, TooLong
from localllm.endpoints.wanted import Wanted, body_of
from localllm.endpoints.wire import Wire

_LISTING_BYTES = 8 << 20
_LISTING_S = 30.0
_AFTER_S = 5.0  # for token counts, when the answer itself has ended
# What older servers refuse with a 400 that names it, and what is sent then in its place.
_DOUBTFUL = ("stream_options", "max_tokens")


class EndpointClient:
    """Any number of requests at once, on one event loop. Close it with `aclose`."""

    def __init__(self, endpoint: Endpoint, key: Key | None = None) -> None:
        self.endpoint = endpoint
        self._key = key
        self._wire = Wire(endpoint, key)
        self._without: set[str] = set()  # fields that this server refused

    async def aclose(self) -> None:
        await self._wire.aclose()

    async def stream(self, wanted: Wanted) -> AsyncGenerator[list[Delta | Ended], None]:
        """The answer as it comes, an empty list first when the server has taken the request; at its
        end one Ended a sample. To stop reading (aclose of this
        iterator, or cancelling its task) closes the connection at once.

        Raises UsageProblem for what the server cannot do, AccessDenied, EndpointBusy,
        EndpointSilent, EndpointBroken, ContextFull, RequestRefused, SourceUnreachable,
        SourceFailed. What came before an error was given.
        """
        reading = Reading(self.endpoint, wanted)
        async with aclosing(self.read(reading, wanted)) as parts:
            async for found in parts:
                yield [*found]
        yield [*reading.ended()]

    async def read(self, reading: Reading, wanted: Wanted) -> AsyncGenerator[list[Delta], None]:
        """The same into a Reading of the caller's, which has the account however it ends."""
        clock = _Clock.of(self.endpoint, wanted.deadline_s)
        async with aclosing(self._chunks(reading, wanted, clock)) as chunks:
            async for chunk in chunks:
                if not chunk:
                    yield []  # it has begun: whoever passes it on may say so
                    continue
                if error := _error_in(chunk):
                    raise told(self.endpoint.name, error, self._key)
                if found := reading.feed(chunk):
                    yield found
        if not reading.complete:
            raise EndpointBroken(f"{self._where} broke its answer off")
        if found := reading.finish():
            yield found

    async def models(self) -> Listed:
        """What the server offers. Raises as `stream`."""
        began = time.perf_counter()
        within_s = min(_LISTING_S, self.endpoint.patience.first_s)
        value, headers = await self._json("GET", "/models", None, _LISTING_BYTES, within_s)
        took_s = time.perf_counter() - began
        data = value.get("data")
        if not isinstance(data, list):
            raise EndpointBroken(f"{self._where} answers with no list of models; is it an API?")
        entries = [one for one in data if isinstance(one, Mapping)]
        models = tuple(model_of(one) for one in entries if isinstance(one.get("id"), str))
        return Listed(models, kind_of(entries, headers), took_s)

    async def embed(
        self, texts: Sequence[str | Sequence[int]], dimensions: int | None = None
    ) -> Embedded:
        """Texts (or tokens of the server's model) to vectors. Raises as `stream`."""
        given = [text if isinstance(text, str) else list(text) for text in texts]
        body: dict[str, Any] = {
            "model": self.endpoint.model, "input": given, "encoding_format": "float"
        }  # fmt: skip
        if dimensions is not None:
            body["dimensions"] = dimensions
        patience = self.endpoint.patience
        value, _ = await self._json(
            "POST", "/embeddings", body, 4 * patience.answer_bytes, patience.first_s
        )
        return embedded_of(value, texts, self.endpoint.name)

    # --- inside -----------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return f"{self.endpoint.name} ({self.endpoint.host})"

    async def _chunks(
        self, reading: Reading, wanted: Wanted, clock: _Clock
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Objects of one answer, streamed or (servers that know no streaming) whole."""
        async with aclosing(self._opened(wanted, clock)) as opened:
            response = await anext(opened)
            yield {}
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "text/event-stream":
                async with aclosing(self._events(response, reading, clock)) as events:
                    async for text in events:
                        yield self._object(text)
                return
            body = await self._whole(response, self.endpoint.patience.answer_bytes, clock.first)
            if kind == "text/html" or body.lstrip()[:1] not in (b"{", b"["):
                raise EndpointBroken(
                    f"{self._where} answers with {one_line(kind) or 'nothing'} and not with JSON",
                    "does the URL end where the API begins (.../v1)?",
                )
            yield self._object(body.decode("utf-8", "replace"))

    async def _opened(self, wanted: Wanted, clock: _Clock) -> AsyncGenerator[httpx2.Response, None]:
        """One answer that has begun; without what this server has refused before. That a field is
        refused is known once the request is taken without it: a 400 may name it for another
        reason."""
        body = body_of(self.endpoint, wanted)
        without = set(self._without)
        while True:
            sent = _fitted(body, without)
            try:
                async with self._wire.ask("POST", wanted.path, sent, clock.first) as response:
                    self._without |= without
                    yield response
                    return
            except RequestRefused as error:
                named = next((n for n in _DOUBTFUL if n in sent and n in error.message), None)
                if error.status not in (400, 422) or named is None:
                    raise
                without.add(named)

    async def _events(
        self, response: httpx2.Response, reading: Reading, clock: _Clock
    ) -> AsyncGenerator[str, None]:
        patience = self.endpoint.patience
        events = EventReader(patience.event_bytes)
        n_bytes = 0
        async with aclosing(response.aiter_bytes()) as chunks:
            while (chunk := await self._next(chunks, reading, clock)) is not None:
                n_bytes += len(chunk)
                if n_bytes > patience.answer_bytes:
                    raise self._too_much(patience.answer_bytes)
                try:
                    for text in events.feed(chunk):
                        if text.strip() == "[DONE]":
                            return
                        yield text
                except TooLong:
                    raise self._too_much(patience.event_bytes) from None
        last = events.finish()
        if last is not None and last.strip() != "[DONE]":
            yield last

    async def _next(
        self, chunks: AsyncIterator[bytes], reading: Reading, clock: _Clock
    ) -> bytes | None:
        """The next bytes; None at the end. A time-out holds for this wait alone: one around all of
        an answer would strike whoever reads it, in the middle of something else."""
        patience, now = self.endpoint.patience, asyncio.get_running_loop().time()
        until = clock.first if reading.first is None else now + patience.idle_s
        until = now + _AFTER_S if reading.complete else until
        try:
            async with asyncio.timeout_at(min(until, clock.ends)):
                return await anext(chunks, None)
        except TimeoutError:
            if reading.complete:
                return None
            raise self._silent(reading, clock) from None
        except httpx2.HTTPError as error:
            if reading.complete:
                return None
            raise self._wire.failure(error) from None

    def _silent(self, reading: Reading, clock: _Clock) -> EndpointSilent:
        patience = self.endpoint.patience
        if asyncio.get_running_loop().time() >= clock.ends:
            return EndpointSilent(f"{self._where} came to no end within {clock.total_s:g} s")
        if reading.first is None:
            return EndpointSilent(f"{self._where} began no answer within {patience.first_s:g} s")
        return EndpointSilent(f"{self._where} went silent in its answer for {patience.idle_s:g} s")

    async def _whole(self, response: httpx2.Response, limit_bytes: int, until: float) -> bytes:
        try:
            async with asyncio.timeout_at(until):
                body = await self._wire.body(response, limit_bytes + 1)
        except TimeoutError:
            raise EndpointSilent(f"{self._where} did not send all of its answer in time") from None
        if len(body) > limit_bytes:
            raise self._too_much(limit_bytes)
        return body

    async def _json(
        self, method: str, path: str, body: Any, limit_bytes: int, seconds: float
    ) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        limit = asyncio.get_running_loop().time() + seconds
        async with self._wire.ask(method, path, body, limit) as response:
            text = await self._whole(response, limit_bytes, limit)
            value = self._object(text.decode("utf-8", "replace"))
            if error := _error_in(value):
                raise told(self.endpoint.name, error, self._key)
            return value, response.headers

    def _object(self, text: str) -> Mapping[str, Any]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            shown = one_line(text, self._key)[:60]
            raise EndpointBroken(f"{self._where} sends what is no JSON: {shown!r}") from None
        if not isinstance(value, Mapping):
            raise EndpointBroken(f"{self._where} sends JSON that is no object")
        return value

    def _too_much(self, limit_bytes: int) -> EndpointBroken:
        return EndpointBroken(f"{self._where} sends more than {limit_bytes >> 20} MiB")


@dataclass(frozen=True)
class _Clock:
    """Until when, in the loop's time: the first piece, and all of the answer."""

    first: float
    ends: float
    total_s: float

    @classmethod
    def of(cls, endpoint: Endpoint, deadline_s: float | None) -> _Clock:
        patience, now = endpoint.patience, asyncio.get_running_loop().time()
        total_s = min(patience.total_s, math.inf if deadline_s is None else deadline_s)
        return cls(min(now + patience.first_s, now + total_s), now + total_s, total_s)


def _fitted(body: Mapping[str, Any], without: Set[str]) -> dict[str, Any]:
    sent = {name: value for name, value in body.items() if name not in without}
    if "max_tokens" in without and "max_tokens" in body:
        sent["max_completion_tokens"] = body["max_tokens"]  # OpenAI's newer models
    return sent


def _error_in(chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    error = chunk.get("error")
    if error or chunk.get("object") == "error":
        return chunk
    return None
