"""/v1/responses"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.errors import LocalLLMError
from localllm.generation import Message
from localllm.serve.answering.ask import Ask
from localllm.serve.openai.chunks import new_id, now_s
from localllm.serve.openai.responses_kept import Items, Kept, Stored
from localllm.serve.openai.responses_output import Output
from localllm.serve.openai.responses_schemas import ResponsesBody
from localllm.serve.openai.responses_tools import namespaces_of, shown, tools_here
from localllm.serve.openai.responses_words import ask_of
from localllm.serve.service import Begun, Service
from localllm.serve.web.limits import Limits
from localllm.serve.web.problems import Failure
from localllm.serve.web.streams import SSE, LineStream, event


def read(body: ResponsesBody, kept: Kept, limits: Limits) -> tuple[Ask, Items]:
    """What is asked, and the items of the input if they are to be kept; on a worker. Raises
    RequestProblem, also for what is not kept (any more)."""
    earlier = body.previous_response_id
    before = kept.conversation(earlier) if earlier is not None else ()
    items = kept.resolved(body.input, limits.body_bytes)
    ask = ask_of(body.model_copy(update={"input": items}), before, limits)
    return ask, Items.of(items if body.store is not False else ())


class Responses:
    """The endpoint."""

    def __init__(self, service: Service, kept: Kept) -> None:
        self._service = service
        self._kept = kept

    async def answer(self, request: Request) -> Response:
        body = await self._service.bodies.parse(request, ResponsesBody)
        ask, items = await self._service.work(lambda: read(body, self._kept, self._service.limits))
        begun = await self._service.begin(request, body.model, ask, whole=not body.stream)
        messages = ask.messages or ()
        said = messages[1:] if body.instructions else messages
        writer = _Writer(body, begun, self._kept, said, items)
        if body.stream:
            return LineStream(writer.stream(), SSE, begun.close)
        return JSONResponse(await writer.whole())


class _Writer:
    """One response."""

    def __init__(
        self,
        body: ResponsesBody,
        begun: Begun,
        kept: Kept,
        said: tuple[Message, ...],
        items: Items,
    ) -> None:
        self._body = body
        self._begun = begun
        self._kept = kept
        self._said = said
        self._items = items  # of the input
        self._output = Output(
            begun.tokenizer, body.wants_summary, body.wants_sealed, namespaces_of(body.tools)
        )
        self._id = new_id("resp").replace("-", "_")
        self._created = now_s()
        self._n_events = 0

    async def whole(self) -> dict[str, Any]:
        try:
            async for parts in self._begun.answering.parts():
                for part in parts:
                    self._output.take(part)
        finally:
            self._note()
            await self._begun.close()
        return self._finished()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        begun = self._response("in_progress")
        yield self._event({"type": "response.created", "response": begun}) + self._event(
            {"type": "response.in_progress", "response": begun}
        )
        try:
            async for parts in self._begun.answering.parts():
                found = [one for part in parts for one in self._output.take(part)]
                if found:
                    yield b"".join(map(self._event, found))
        except LocalLLMError as error:
            failure = Failure.of(error)
            failed = self._response("failed") | {
                "error": {"code": failure.code or "server_error", "message": failure.message}
            }
            yield self._event({"type": "response.failed", "response": failed})
            return
        finally:
            self._note()
        response = self._finished()
        yield self._event({"type": f"response.{response['status']}", "response": response})

    def _event(self, what: dict[str, Any]) -> bytes:
        number, self._n_events = self._n_events, self._n_events + 1
        return event({**what, "sequence_number": number}, what["type"])

    def _note(self) -> None:
        ended = self._output.ended
        self._begun.account([ended.accounting] if ended is not None else [])

    def _finished(self) -> dict[str, Any]:
        ended = self._output.ended
        assert ended is not None  # set by the last part
        account = ended.accounting
        cut = account.finish_reason != "stop"
        response = self._response("incomplete" if cut else "completed")
        if cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["output"] = self._output.items()
        response["usage"] = {
            "input_tokens": account.prompt_tokens,
            "input_tokens_details": {"cached_tokens": account.cached_tokens},
            "output_tokens": account.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": ended.thought_tokens or 0},
            "total_tokens": account.prompt_tokens + account.completion_tokens,
        }
        if self._body.store is not False:
            messages = (*self._said, self._output.message())
            self._kept.add(Stored.of(messages, self._items, response))
        return response

    def _response(self, status: str) -> dict[str, Any]:
        body = self._body
        choice, asked = body.tool_choice, body.reasoning
        text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": asked.effort if asked else None,
                          "summary": asked.summary or asked.generate_summary if asked else None},
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}} | text,
            "tool_choice": choice.model_dump() if choice and not isinstance(choice, str)
            else choice or "auto",
            "top_logprobs": body.top_logprobs or 0,
            "tools": [shown(one) for one in tools_here(body.tools)],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            "metadata": body.metadata or {},
            "service_tier": "default",
            "safety_identifier": body.safety_identifier,
            "prompt_cache_key": body.prompt_cache_key,
            "max_tool_calls": body.max_tool_calls,
        }  # fmt: skip
