"""/api/chat"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.engine.scheduler import TokenLogprobs
from localllm.errors import LocalLLMError
from localllm.generation import Accounting
from localllm.serve.answering.answer import Called, Ended, Part, Said, Thinking
from localllm.serve.answering.ask import Ask
from localllm.serve.ollama import words
from localllm.serve.ollama.schemas import Asked, OllamaChatBody
from localllm.serve.openai.chunks import chat_logprobs
from localllm.serve.openai.words import tools_of
from localllm.serve.service import Begun, Service
from localllm.serve.web.problems import Failure
from localllm.serve.web.streams import NDJSON, LineStream, line
from localllm.toolcalls import CallArguments, CallEnd, CallStart


class OllamaChat:
    """The endpoint. Without messages it only loads the model, or unloads it (keep_alive 0)."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        began = time.perf_counter()
        body = await self._service.bodies.parse(request, OllamaChatBody)
        if not body.messages:
            empty = {"message": {"role": "assistant", "content": ""}}
            return await loaded_or_not(self._service, body, empty)
        ask = await self._service.work(lambda: self._ask(body))
        keep = words.seconds(body.keep_alive)
        whole = body.stream is False
        begun = await self._service.begin(request, body.model, ask, whole=whole, keep_alive_s=keep)
        writer = ChatWriter(body, begun, began)
        if not whole:
            return LineStream(stream(begun, writer), NDJSON, begun.close)
        return JSONResponse(await collected(begun, writer))

    def _ask(self, body: OllamaChatBody) -> Ask:
        return Ask(
            messages=words.messages_of(body.messages or (), self._service.limits),
            sampling=words.sampling_of(body),
            schema=words.schema_of(body),
            tools=tools_of(body.tools),
            variables=words.variables_of(body),
            logprobs=body.n_logprobs,
            deadline_s=self._service.limits.answer_s,
        )


async def loaded_or_not(service: Service, body: Asked, empty: dict[str, Any]) -> Response:
    """What an empty request asks for."""
    keep = words.seconds(body.keep_alive)
    if await service.far(body.model) is not None:
        reason = "unload" if keep == 0 else "load"  # there is nothing to load for it here
    elif keep == 0:
        await service.work(lambda: service.desk.unload(body.model))
        reason = "unload"
    else:
        service.check_open()
        async with service.desk.use(body.model, keep):
            reason = "load"
    return JSONResponse(
        {"model": body.model, "created_at": words.now(), **empty, "done": True,
         "done_reason": reason}
    )  # fmt: skip


class ChatWriter:
    """Lines of one answer. Calls are given whole: this API knows no pieces of them."""

    def __init__(self, body: Asked, begun: Begun, began: float) -> None:
        self.model = body.model
        self._begun = begun
        self._began = began
        self._calls: dict[int, tuple[CallStart, list[str]]] = {}
        self.ended: list[Accounting] = []

    def message(self, content: str, **more: Any) -> dict[str, Any]:
        """What is special to chat."""
        return {"message": {"role": "assistant", "content": content, **more}}

    def lines(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        found = []
        for part in parts:
            if isinstance(part, Said):
                if part.text or part.logprobs:
                    found.append(self._line(self.message(part.text), part.logprobs))
            elif isinstance(part, Thinking):
                found.append(self._line(self.message("", thinking=part.text)))
            elif isinstance(part, Called):
                call = self._call(part)
                if call is not None:
                    found.append(self._line(self.message("", tool_calls=[call])))
            elif isinstance(part, Ended):
                self.ended.append(part.accounting)
                found.append(self._last(part))
        return found

    def _line(self, what: dict[str, Any], logprobs: Sequence[TokenLogprobs] = ()) -> dict[str, Any]:
        line = {"model": self.model, "created_at": words.now(), **what, "done": False}
        if logprobs:
            line["logprobs"] = chat_logprobs(self._begun.tokenizer, logprobs)
        return line

    def _call(self, part: Called) -> dict[str, Any] | None:
        made = part.part
        if isinstance(made, CallStart):
            self._calls[part.index] = made, []
        elif isinstance(made, CallArguments):
            self._calls[part.index][1].append(made.text)
        elif isinstance(made, CallEnd):
            start, pieces = self._calls[part.index]
            arguments = words.arguments_of("".join(pieces))
            function = {"index": part.index, "name": start.name, "arguments": arguments}
            return {"id": start.id, "function": function}
        return None

    def _last(self, part: Ended) -> dict[str, Any]:
        took = time.perf_counter() - self._began
        return {
            **self._line(self.message("")),
            "done": True,
            "done_reason": words.done_reason(part.accounting),
            **words.timings(self.ended, took, self._begun.use.load_s),
        }


async def stream(begun: Begun, writer: ChatWriter) -> AsyncGenerator[bytes, None]:
    try:
        async for parts in begun.answering.parts():
            lines = writer.lines(parts)
            if lines:
                yield b"".join(map(line, lines))
    except LocalLLMError as error:
        yield line(Failure.of(error).ollama())
    finally:
        begun.account(writer.ended)


async def collected(begun: Begun, writer: ChatWriter) -> dict[str, Any]:
    """The stream's lines as one answer."""
    found: list[dict[str, Any]] = []
    try:
        async for parts in begun.answering.parts():
            found += writer.lines(parts)
    finally:
        begun.account(writer.ended)
        await begun.close()
    last = found[-1]
    logprobs = [token for one in found for token in one.get("logprobs", ())]
    if logprobs:
        last |= {"logprobs": logprobs}
    if "message" not in last:
        texts = {
            key: "".join(one.get(key, "") for one in found) for key in ("response", "thinking")
        }
        return last | {key: text for key, text in texts.items() if text or key == "response"}
    messages = [one["message"] for one in found]
    whole: dict[str, Any] = {
        "role": "assistant", "content": "".join(one["content"] for one in messages)
    }  # fmt: skip
    thinking = "".join(one.get("thinking", "") for one in messages)
    calls = [call for one in messages for call in one.get("tool_calls", ())]
    if thinking:
        whole["thinking"] = thinking
    if calls:
        whole["tool_calls"] = calls
    return last | {"message": whole}
