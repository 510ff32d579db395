"""/v1/models"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.serve.resident.catalog import FarAlias, Served
from localllm.serve.service import Service


class Models:
    """What is served, or one of it. A name may hold slashes and colons."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        catalog = self._service.desk.catalog
        name = request.path_params.get("name")
        if name is not None:
            if (far := await self._service.far(name)) is not None:
                return JSONResponse(_far(FarAlias(name, far)))
            return JSONResponse(_model(await self._service.work(lambda: catalog.find(name))))
        found = await self._service.work(catalog.names)
        elsewhere = await self._service.work(catalog.far_names)
        data = [*map(_model, found), *map(_far, elsewhere)]
        return JSONResponse({"object": "list", "data": data})


def _far(one: FarAlias) -> dict[str, Any]:
    """Nothing of where it is: that is the operator's business."""
    return {
        "id": one.name,
        "object": "model",
        "created": int(one.far.added_at),
        "owned_by": one.far.kind,
        # beside OpenAI's fields
        "architecture": None,
        "quantization": None,
        "n_params": None,
        "n_ctx_train": one.far.n_ctx,
        "size_bytes": 0,
    }


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
