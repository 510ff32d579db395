"""/v1/embeddings"""

from __future__ import annotations

import base64

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.serve.answering.vectors import Wanted, vectors_of
from localllm.serve.openai.schemas import EmbeddingsBody
from localllm.serve.service import Service


class Embeddings:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        body = await self._service.bodies.parse(request, EmbeddingsBody)
        wanted = Wanted(body.model, _texts(body), dimensions=body.dimensions)
        found = await vectors_of(self._service, request, wanted)
        rows = found.rows.astype("<f4")
        if body.encoding_format == "base64":
            vectors = [base64.b64encode(row.tobytes()).decode() for row in rows]
        else:
            vectors = rows.tolist()
        return JSONResponse(
            {
                "object": "list",
                "model": body.model,
                "data": [
                    {"object": "embedding", "index": i, "embedding": vector}
                    for i, vector in enumerate(vectors)
                ],
                "usage": {"prompt_tokens": found.n_tokens, "total_tokens": found.n_tokens},
            }
        )


def _texts(body: EmbeddingsBody) -> list[str | list[int]]:
    given = body.input
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    return [one for one in given if not isinstance(one, int)]
