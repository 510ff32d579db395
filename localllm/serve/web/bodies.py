"""Reading a request's body: bounded in size, in time, and in all bodies together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from localllm.serve.web.limits import Limits
from localllm.serve.web.problems import RequestProblem

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound=BaseModel)

# A larger body is parsed on a worker: its JSON would hold up everyone's next token.
_PARSED_HERE = 64 << 10
# Of a body that is refused: read on for so many times its limit, while it comes without a pause.
_DISCARDED, _PAUSE_S = 4, 0.5
_CLOSE = {"Connection": "close"}


class Bodies:
    """Reads bodies within the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0  # bytes of all bodies that are being read

    async def read(self, request: Request) -> bytes:
        """The whole body. Raises RequestProblem: 408, 413, 415, 503."""
        coding = request.headers.get("content-encoding", "identity").lower()
        if coding != "identity":
            raise RequestProblem(
                f"the body is encoded as {coding}; send it plain", status=415, headers=_CLOSE
            )
        pieces: list[bytes] = []
        n_bytes = 0
        try:
            self._check_size(_announced(request))
            async with asyncio.timeout(self._limits.body_s):
                async for piece in request.stream():
                    n_bytes += len(piece)
                    self._held += len(piece)
                    self._check_size(n_bytes)
                    pieces.append(piece)
        except TimeoutError:
            raise RequestProblem(
                f"the body did not end within {self._limits.body_s:g} s", status=408,
                headers=_CLOSE,
            ) from None  # fmt: skip
        except ClientDisconnect:
            raise asyncio.CancelledError from None
        except RequestProblem:
            await self._discard(request)
            raise
        finally:
            self._held -= n_bytes
        return b"".join(pieces)

    async def refuse(self, request: Request, error: RequestProblem) -> NoReturn:
        """Refuse whatever the body is, unread. Raises `error`."""
        await self._discard(request)
        error.headers |= _CLOSE
        raise error

    async def _discard(self, request: Request) -> None:
        """Take what is on its way, and drop it: who is still writing when the connection closes
        gets a reset in place of our answer."""
        left = _DISCARDED * self._limits.body_bytes
        while left > 0:
            try:
                async with asyncio.timeout(_PAUSE_S):
                    message = await request.receive()
            except TimeoutError:
                return
            left -= len(message.get("body", b""))
            if not message.get("more_body"):
                return

    def _check_size(self, n_bytes: int) -> None:
        limit = self._limits.body_bytes
        if n_bytes > limit:
            raise RequestProblem(
                f"the body is larger than {limit} bytes", status=413, headers=_CLOSE
            )
        if self._held > self._limits.bodies_bytes:
            raise RequestProblem(
                "too many large requests at once", status=503, code="overloaded",
                headers={"Retry-After": "1"} | _CLOSE,
            )  # fmt: skip

    async def parse(self, request: Request, shape: type[M]) -> M:
        """The body as `shape`. Raises RequestProblem with the field that is wrong."""
        raw = await self.read(request)

        def parsed() -> M:
            try:
                return shape.model_validate_json(raw)
            except ValidationError as error:
                raise invalid(error) from None

        if len(raw) < _PARSED_HERE:
            return parsed()
        return await asyncio.to_thread(parsed)


def _announced(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdigit() and len(text) < 19 else 0


def invalid(error: ValidationError) -> RequestProblem:
    """The first mistake, in words that name the field."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = _deepest(found, found[0]["loc"])
    where = _where(first["loc"])
    if first["type"] == "json_invalid":
        return RequestProblem(f"the body is not JSON: {first['msg']}")
    message = _said(found, first)
    return RequestProblem(f"{where}: {message}" if where else message, where or None)


def _said(found: Sequence[ErrorDetails], first: ErrorDetails) -> str:
    """What was wanted there: all of it, where a field may be several things."""
    if first["type"] == "union_tag_invalid":
        _, _, wanted = first["msg"].partition("expected tags: ")
        given = first["msg"].partition("'")[2].partition("'")[0]
        return f"type is {given!r}; what is read here: {wanted}"
    where = _where(first["loc"])
    same = [one for one in found if _where(one["loc"]) == where]
    said = [str(one["msg"]).removeprefix("Value error, ") for one in same or [first]]
    said = [text[:1].lower() + text[1:] for text in dict.fromkeys(said)]
    begin = "input should be "
    if all(text.startswith(begin) for text in said):
        return begin + " or ".join(text.removeprefix(begin) for text in said)
    return said[0]


def _deepest(found: Sequence[ErrorDetails], path: tuple[int | str, ...]) -> ErrorDetails:
    """Of a field that may be several things, the mistake within the one that comes nearest: of a
    list with one bad part that part, and not that it is no string."""
    n = next((i for i, s in enumerate(path) if isinstance(s, str) and _names_union(s)), None)
    if n is None:
        return found[0]
    return max((one for one in found if one["loc"][:n] == path[:n]), key=lambda e: len(e["loc"]))


def _where(path: tuple[int | str, ...]) -> str:
    """`messages[0].content`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif not _names_union(step):
            text += f".{step}" if text else step
    return text


def _names_union(step: str) -> bool:
    """Steps of pydantic's path that name a member of a union, and not a field."""
    return step[:1].isupper() or "[" in step or step in ("str", "float", "int", "bool")
