"""/v1/models"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.serve.resident.catalog import Served
from localllm.serve.service import Service


class Models:
    """What is served, or one of it. A name may hold slashes and colons."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        catalog = self._service.desk.catalog
        name = request.path_params.get("name")
        if name is not None:
            return JSONResponse(_model(await self._service.work(lambda: catalog.find(name))))
        found = await self._service.work(catalog.names)
        return JSONResponse({"object": "list", "data": [_model(one) for one in found]})


def _model(served: Served) -> dict[str, Any]:
    model = served.model
    return {
        "id": served.name,
        "object": "model",
        "created": int(model.added_at),
        "owned_by": model.publisher or "local",
        # beside OpenAI's fields
        "architecture": model.architecture,
        "quantization": model.file_type,
        "n_params": model.n_params,
        "n_ctx_train": model.n_ctx_train,
        "size_bytes": model.size_bytes,
    }
