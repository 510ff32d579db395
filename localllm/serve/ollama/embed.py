"""/api/embed, and the older /api/embeddings"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.serve.answering.vectors import Wanted, vectors_of
from localllm.serve.ollama import words
from localllm.serve.ollama.schemas import KeepAlive, OllamaEmbedBody, OllamaEmbeddingsBody
from localllm.serve.service import Service


class OllamaEmbed:
    """The endpoint. As Ollama does, it cuts texts that are too long unless `truncate` is false."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        began = time.perf_counter()
        body = await self._service.bodies.parse(request, OllamaEmbedBody)
        texts = [body.input] if isinstance(body.input, str) else body.input
        if not any(texts):
            return await self._nothing(body, began)
        wanted = Wanted(
            body.model, texts, truncate=body.truncate is not False, dimensions=body.dimensions,
            keep_alive_s=words.seconds(body.keep_alive),
        )  # fmt: skip
        found = await vectors_of(self._service, request, wanted)
        return JSONResponse(
            {
                "model": body.model,
                "embeddings": found.rows.tolist(),
                "total_duration": words.ns(time.perf_counter() - began),
                "load_duration": words.ns(found.load_s),
                "prompt_eval_count": found.n_tokens,
            }
        )

    async def _nothing(self, body: OllamaEmbedBody, began: float) -> Response:
        """Without a text the model is only loaded."""
        load_s = await loaded(self._service, body.model, body.keep_alive)
        return JSONResponse(
            {
                "model": body.model, "embeddings": [],
                "total_duration": words.ns(time.perf_counter() - began),
                "load_duration": words.ns(load_s), "prompt_eval_count": 0,
            }
        )  # fmt: skip


async def loaded(service: Service, name: str, keep_alive: KeepAlive | None) -> float:
    """Load a model; the seconds that it took. Who is elsewhere needs no loading."""
    service.check_open()
    if await service.far(name) is not None:
        return 0.0
    async with service.desk.use(name, words.seconds(keep_alive)) as use:
        return use.load_s


class OllamaEmbeddings:
    """The older endpoint: one text, a vector that is not scaled."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        body = await self._service.bodies.parse(request, OllamaEmbeddingsBody)
        if not body.prompt:
            await loaded(self._service, body.model, body.keep_alive)
            return JSONResponse({"embedding": []})
        wanted = Wanted(
            body.model, [body.prompt], truncate=True, normalize=False,
            keep_alive_s=words.seconds(body.keep_alive),
        )  # fmt: skip
        found = await vectors_of(self._service, request, wanted)
        return JSONResponse({"embedding": found.rows[0].tolist()})
