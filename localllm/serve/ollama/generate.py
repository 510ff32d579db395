"""/api/generate"""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.generation import Message
from localllm.serve.answering.answer import Answering, Ended
from localllm.serve.answering.ask import Ask
from localllm.serve.ollama import words
from localllm.serve.ollama.chat import ChatWriter, collected, loaded_or_not, stream
from localllm.serve.ollama.schemas import OllamaGenerateBody
from localllm.serve.service import Begun, Service
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
        if not body.prompt and not body.images and not body.suffix:
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
        """With the model's template, or the prompt as it stands where `raw`; a `suffix` has the
        vocabulary's own marks."""
        sampling, variables = words.sampling_of(body), words.variables_of(body)
        limit, prompt = self._service.limits.answer_s, body.prompt or ""
        images = words.images_of(body.images, "images", self._service.limits)
        if body.raw or body.suffix:
            return Ask(
                text=words.with_places(prompt, len(images)), suffix=body.suffix or None,
                images=images, sampling=sampling, schema=words.schema_of(body), deadline_s=limit,
                logprobs=body.n_logprobs,
            )  # fmt: skip
        user = Message("user", body.prompt or "", {"images": images} if images else {})
        system = (Message("system", body.system),) if body.system else ()
        return Ask(
            (*system, user), sampling=sampling, schema=words.schema_of(body), variables=variables,
            deadline_s=limit, before=tuple(body.context or ()), logprobs=body.n_logprobs,
            template=words.template_of(body.template),
        )  # fmt: skip


def _refuse(body: OllamaGenerateBody) -> None:
    """What would change the answer and is not here."""
    if body.template and (body.raw or body.suffix):
        raise RequestProblem("a raw prompt and a suffix have no template", "template")
    if body.raw and (body.system or body.context):
        raise RequestProblem("a raw prompt takes no system message and no context", "raw")
    if body.suffix and (body.images or body.context or body.system):
        raise RequestProblem("a suffix goes with a prompt alone", "suffix")


class GenerateWriter(ChatWriter):
    """The same lines with `response` in place of `message`, and `context`: tokens for the next
    request to go on from. There are none of raw prompts, nor of pictures."""

    def __init__(self, body: OllamaGenerateBody, begun: Begun, began: float) -> None:
        super().__init__(body, begun, began)
        self._keeps = not (body.raw or body.suffix or body.images)

    def _last(self, part: Ended) -> dict[str, Any]:
        last, answering = super()._last(part), self._begun.answering
        if self._keeps and isinstance(answering, Answering):
            last["context"] = [*answering.prepared.request.prompt, *answering.tokens]
        return last

    def message(self, content: str, **more: Any) -> dict[str, Any]:
        return {"response": content, **more}
