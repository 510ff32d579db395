"""/v1/responses/ID: what was stored; and /v1/responses/input_tokens"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.serve.openai.responses import read
from localllm.serve.openai.responses_kept import Kept
from localllm.serve.openai.responses_schemas import ResponsesBody
from localllm.serve.service import Service
from localllm.serve.web.problems import RequestProblem

_MOST_ITEMS = 100


class Retrieve:
    """A response as it was answered."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    async def answer(self, request: Request) -> Response:
        if request.query_params.get("stream") == "true":
            raise RequestProblem("a response is streamed while it is made, not after", "stream")
        stored = self._kept.get(request.path_params["id"])
        return Response(stored.response, media_type="application/json")


class Forget:
    """Nobody can go on from it any more; who did already, can."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    async def answer(self, request: Request) -> Response:
        name = request.path_params["id"]
        self._kept.remove(name)
        return JSONResponse({"id": name, "object": "response", "deleted": True})


class InputItems:
    """What its request brought, without the conversation that it went on from."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    async def answer(self, request: Request) -> Response:
        query = request.query_params
        items = self._kept.get(request.path_params["id"]).inputs.all()
        order, limit = query.get("order", "desc"), query.get("limit", "20")
        if order not in ("asc", "desc"):
            raise RequestProblem("order: asc or desc", "order")
        if not (limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= _MOST_ITEMS):
            raise RequestProblem(f"limit: a number from 1 to {_MOST_ITEMS}", "limit")
        if order == "desc":
            items.reverse()
        after = query.get("after")
        if after is not None:
            places = [i for i, one in enumerate(items) if one["id"] == after]
            if not places:
                raise RequestProblem(f"after: there is no item {after!r}", "after")
            items = items[places[0] + 1 :]
        page = items[: int(limit)]
        return JSONResponse(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(page) < len(items),
            }
        )


class InputTokens:
    """How long a request's prompt would be, its template and tools and images among it."""

    def __init__(self, service: Service, kept: Kept) -> None:
        self._service, self._kept = service, kept

    async def answer(self, request: Request) -> Response:
        body = await self._service.bodies.parse(request, ResponsesBody)
        ask, _ = await self._service.work(lambda: read(body, self._kept, self._service.limits))
        n_tokens = await self._service.count(request, body.model, ask)
        return JSONResponse({"object": "response.input_tokens", "input_tokens": n_tokens})
