"""Beside OpenAI's API: which member of a router a conversation would go to, and what people
thought of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.errors import ModelNotFound
from localllm.generation import Message
from localllm.serve.openai.schemas import ChatMessage, FunctionTool
from localllm.serve.openai.words import messages_of, tools_of
from localllm.serve.service import Service
from localllm.serve.web.problems import RequestProblem
from localllm.serve.web.shapes import Body


class DecideBody(Body):
    model: str = Field(description="A router: router/NAME or router/NAME@0.4.")
    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    tools: list[FunctionTool] | None = None


class FeedbackBody(Body):
    decision: Annotated[int, Field(ge=1, description="As x-localllm-decision had it.")]
    verdict: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        description="good, bad, or the name of the member that is better."
    )
    type: Literal["feedback"] = "feedback"


class Decide:
    """The decision alone: nobody is asked, nothing is kept."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        body = await self._service.bodies.parse(request, DecideBody)
        if (body.messages is None) == (body.prompt is None):
            raise RequestProblem("give either messages or prompt", "messages")
        far = await self._service.far(body.model)
        if far is None or far.kind != "router":
            raise ModelNotFound(f"{body.model!r} is no router here")
        if body.messages is not None:
            messages = messages_of(body.messages, self._service.limits)
        else:
            messages = (Message("user", body.prompt or ""),)
        use = await self._service.far_use(far)
        client: Any = use.client  # a router's
        found: Mapping[str, Any] = await self._service.work(
            lambda: client.decide(messages, tools=tools_of(body.tools))
        )
        more = {"object": "routing.decision", "model": body.model, "member_model": found["model"]}
        return JSONResponse({**found, **more})


class Feedback:
    """What somebody thinks of an answer. A client has one vote on each."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        from localllm.registry.decisions import Decisions

        body = await self._service.bodies.parse(request, FeedbackBody)
        registry = self._service.desk.catalog.registry
        host = request.client.host if request.client is not None else "unknown"
        await self._service.work(
            lambda: Decisions(registry).judge(body.decision, body.verdict, f"http {host}")
        )
        return JSONResponse({"object": "routing.feedback", "decision": body.decision,
                             "verdict": body.verdict})  # fmt: skip
