"""The API as an OpenAPI document, from the same table that the routes are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from localllm import __version__

_REF = "#/components/schemas/{model}"


class Described(Protocol):
    """What is written of an endpoint."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def help(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def body(self) -> type[BaseModel] | None: ...


def document(endpoints: Sequence[Described]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    bodies = [one.body for one in endpoints if one.body is not None]
    wanted = [(body, "validation") for body in dict.fromkeys(bodies)]
    _, schemas = models_json_schema(wanted, ref_template=_REF)  # type: ignore[arg-type]
    paths: dict[str, Any] = {}
    for one in endpoints:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", one.path)
        paths.setdefault(path, {})[one.method.lower()] = _operation(one, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "localllm serve", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(one: Described, path: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": one.help,
        "tags": [one.group],
        "operationId": re.sub(r"\W+", "_", f"{one.method.lower()}{path}").strip("_"),
        "responses": {"200": {"description": "The answer."}, "4XX": {"description": "An error."}},
    }
    names = re.findall(r"\{(\w+)\}", path)
    if names:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if one.body is not None:
        schema = {"$ref": _REF.format(model=one.body.__name__)}
        found["requestBody"] = {
            "required": True, "content": {"application/json": {"schema": schema}}
        }  # fmt: skip
    return found
