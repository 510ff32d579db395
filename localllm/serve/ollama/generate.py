"""/api/generate"""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.generation import Message
from localllm.serve.answering.ask import Ask
from localllm.serve.ollama import words
from localllm.serve.ollama.chat import ChatWriter, collected, loaded_or_not, stream
from localllm.serve.ollama.schemas import OllamaGenerateBody
from localllm.serve.service import Service
from localllm.serve.web.problems import RequestProblem
from localllm.serve.web.streams import NDJSON, LineStream


class OllamaGenerate:
    """The endpoint. Without a prompt it only loads the model, or unloads it (keep_alive 0)."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        began = time.perf_counter()
        body = await self._service.bodies.parse(request, OllamaGenerateBody)
        _refuse(body)
        if not body.prompt and not body.images:
            return await loaded_or_not(self._service, body, {"response": ""})
        ask = await self._service.work(lambda: self._ask(body))
        whole = body.stream is False
        begun = await self._service.begin(
            request, body.model, ask, whole=whole, keep_alive_s=words.seconds(body.keep_alive)
        )
        writer = GenerateWriter(body, begun, began)
        if not whole:
            return LineStream(stream(begun, writer), NDJSON, begun.close)
        return JSONResponse(await collected(begun, writer))

    def _ask(self, body: OllamaGenerateBody) -> Ask:
        """With the model's template, or the prompt as it stands where `raw`."""
        sampling, variables = words.sampling_of(body), words.variables_of(body)
        limit = self._service.limits.answer_s
        if body.raw:
            return Ask(text=body.prompt or "", sampling=sampling, deadline_s=limit)
        images = words.images_of(body.images, "images", self._service.limits)
        user = Message("user", body.prompt or "", {"images": images} if images else {})
        system = (Message("system", body.system),) if body.system else ()
        return Ask((*system, user), sampling=sampling, variables=variables, deadline_s=limit)


def _refuse(body: OllamaGenerateBody) -> None:
    """What would change the answer and is not here."""
    if body.suffix:
        raise RequestProblem("suffix (text after the gap) is not supported here", "suffix")
    if body.template:
        raise RequestProblem("template: make a model with it, at /api/create", "template")
    if body.context:
        raise RequestProblem("context is gone from Ollama too; use /api/chat", "context")


class GenerateWriter(ChatWriter):
    """The same lines with `response` in place of `message`."""

    def message(self, content: str, **more: Any) -> dict[str, Any]:
        return {"response": content, **more}
