"""/v1/chat/completions"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.engine.scheduler import TokenLogprobs
from localllm.errors import LocalLLMError
from localllm.generation import Accounting
from localllm.serve.answering.answer import Called, Ended, Part, Said, Thinking
from localllm.serve.answering.ask import Ask
from localllm.serve.answering.whole import Whole
from localllm.serve.openai import chunks
from localllm.serve.openai.schemas import ChatBody
from localllm.serve.openai.words import (
    biases,
    choice_of,
    format_grammar,
    format_schema,
    messages_of,
    refuse_others,
    sampling_of,
    tools_of,
)
from localllm.serve.service import Begun, Service
from localllm.serve.web.problems import Failure, RequestProblem
from localllm.serve.web.streams import SSE, LineStream, event
from localllm.toolcalls import CallArguments, CallStart

DONE = b"data: [DONE]\n\n"


class ChatCompletions:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        body = await self._service.bodies.parse(request, ChatBody)
        ask = await self._service.work(lambda: self._ask(body))
        begun = await self._service.begin(request, body.model, ask, whole=not body.stream)
        if body.stream:
            return LineStream(_stream(begun, body), SSE, begun.close)
        found = await begun.whole()
        tokenizer = begun.tokenizer
        choices = [_choice(i, one, tokenizer, body) for i, one in enumerate(found)]
        return JSONResponse(
            {
                "id": chunks.new_id("chatcmpl"),
                "object": "chat.completion",
                "created": chunks.now_s(),
                "model": body.model,
                "choices": choices,
                "usage": chunks.usage_of(
                    [one.account for one in found], [one.thought_tokens for one in found]
                ),
                "system_fingerprint": chunks.fingerprint(begun.use),
                **routed(begun),
            }
        )

    def _ask(self, body: ChatBody) -> Ask:
        """On a worker: grammars of large schemas take a while."""
        _refuse(body)
        choice, tools = choice_of(body, tools_of(body.tools))
        limits = self._service.limits
        max_tokens = body.max_completion_tokens
        if max_tokens is None:
            max_tokens = body.max_tokens
        return Ask(
            messages=messages_of(body.messages, limits),
            sampling=sampling_of(body, max_tokens, format_grammar(body.response_format)),
            schema=format_schema(body.response_format),
            n=body.n or 1,
            logit_bias=biases(body.logit_bias),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            tools=tools,
            tool_choice=choice,
            parallel_calls=body.parallel_tool_calls is not False,
            variables=_variables(body),
            ignore_eog=body.ignore_eos is True,
            cache_prompt=body.cache_prompt is not False,
            deadline_s=limits.answer_s,
        )


def routed(begun: Begun) -> dict[str, Any]:
    """The field with what a router decided, beside OpenAI's; nothing for others."""
    return {} if begun.about is None else {"localllm": {"routing": dict(begun.about)}}


def _variables(body: ChatBody) -> dict[str, Any]:
    found = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        found.setdefault("reasoning_effort", body.reasoning_effort)
        found.setdefault("enable_thinking", body.reasoning_effort != "none")
    return found


def _refuse(body: ChatBody) -> None:
    """What would change the answer and is not here."""
    refuse_others(body)
    if body.functions or body.function_call is not None:
        raise RequestProblem("functions were replaced by tools", "functions")
    if body.audio is not None or set(body.modalities or ()) - {"text"}:
        raise RequestProblem("answers here are text only", "modalities")
    if body.web_search_options is not None:
        raise RequestProblem("there is no web search here", "web_search_options")
    if body.top_logprobs and not body.logprobs:
        raise RequestProblem("top_logprobs needs logprobs: true", "top_logprobs")
    if body.grammar and body.response_format and body.response_format.type != "text":
        raise RequestProblem("give either grammar or response_format", "grammar")


def _choice(index: int, one: Whole, tokenizer: Any, body: ChatBody) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": one.text, "refusal": None}
    if one.thought:
        message["reasoning_content"] = one.thought
    if one.calls:
        message["content"] = one.text or None
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in one.calls
        ]
    logprobs = None
    if body.logprobs:
        logprobs = {"content": chunks.chat_logprobs(tokenizer, one.logprobs), "refusal": None}
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": chunks.finish_of(one.account, bool(one.calls)),
    }


# --- streaming -----------------------------------------------------------------------------


class _Writer:
    """Chunks of one stream. Those of plain text are put together from parts that never change:
    they are most of what this server writes."""

    def __init__(self, begun: Begun, body: ChatBody) -> None:
        self._tokenizer = begun.tokenizer
        self._with_logprobs = bool(body.logprobs)
        self._usage = chunks.wants_usage(body)
        self._head: dict[str, Any] = {
            "id": chunks.new_id("chatcmpl"),
            "object": "chat.completion.chunk",
            "created": chunks.now_s(),
            "model": body.model,
            "system_fingerprint": chunks.fingerprint(begun.use),
        }
        self._prefix = b"data: " + json.dumps(self._head).encode()[:-1] + b', "choices": '
        self._suffix = (b', "usage": null' if self._usage else b"") + b"}\n\n"
        self.ended: list[Accounting] = []
        self._thought: list[int | None] = []
        self._begun = begun

    def role(self, n: int) -> bytes:
        first = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(i, first) for i in range(n))

    def lines(self, parts: Sequence[Part]) -> bytes:
        return b"".join(self._part(part) for part in parts)

    def _part(self, part: Part) -> bytes:
        if isinstance(part, Said):
            return self._chunk(part.sample, {"content": part.text}, part.logprobs)
        if isinstance(part, Thinking):
            return self._chunk(part.sample, {"reasoning_content": part.text})
        if isinstance(part, Called):
            delta = _call_delta(part)
            return self._chunk(part.sample, delta) if delta else b""
        assert isinstance(part, Ended)  # only completions ask for what a prompt scores
        self.ended.append(part.accounting)
        self._thought.append(part.thought_tokens)
        return self._end(part)

    def _chunk(
        self, sample: int, delta: dict[str, Any], logprobs: Sequence[TokenLogprobs] = ()
    ) -> bytes:
        content = "null"
        if self._with_logprobs and logprobs:
            found = chunks.chat_logprobs(self._tokenizer, logprobs)
            content = json.dumps({"content": found, "refusal": None})
        text = (
            f'[{{"index": {sample}, "delta": {json.dumps(delta)}, "logprobs": {content}, '
            '"finish_reason": null}]'
        )
        return self._prefix + text.encode() + self._suffix

    def _end(self, part: Ended) -> bytes:
        reason = chunks.finish_of(part.accounting, part.called)
        text = (
            f'[{{"index": {part.sample}, "delta": {{}}, "logprobs": null, '
            f'"finish_reason": "{reason}"}}]'
        )
        about = routed(self._begun)
        more = b", " + json.dumps(about).encode()[1:-1] if about else b""
        return self._prefix + text.encode() + more + self._suffix

    def last(self) -> bytes:
        if not self._usage:
            return DONE
        usage = chunks.usage_of(self.ended, self._thought)
        return event({**self._head, "choices": [], "usage": usage}) + DONE


def _call_delta(part: Called) -> dict[str, Any] | None:
    """The name comes first, then the arguments as they are written."""
    made = part.part
    if isinstance(made, CallStart):
        function: dict[str, Any] = {"name": made.name, "arguments": ""}
        call = {"index": part.index, "id": made.id, "type": "function", "function": function}
        return {"tool_calls": [call]}
    if isinstance(made, CallArguments):
        return {"tool_calls": [{"index": part.index, "function": {"arguments": made.text}}]}
    return None


async def _stream(begun: Begun, body: ChatBody) -> AsyncGenerator[bytes, None]:
    writer = _Writer(begun, body)
    yield writer.role(body.n or 1)
    try:
        async for parts in begun.answering.parts():
            lines = writer.lines(parts)
            if lines:
                yield lines
    except LocalLLMError as error:
        yield event(Failure.of(error).openai())
        return
    finally:
        begun.account(writer.ended)
    yield writer.last()
