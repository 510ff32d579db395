"""/api/tags, /api/ps, /api/show"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.formats.gguf import GGUFModel, read_model
from localllm.library.answering import Far
from localllm.library.presets import INHERITED, modelfile_of
from localllm.registry import Model
from localllm.serve.ollama import words
from localllm.serve.ollama.schemas import NameBody
from localllm.serve.resident.catalog import FarAlias, Served
from localllm.serve.service import Service

_FOREVER_S = 100 * 365 * 86400.0  # what has no end is shown to end then, as Ollama does
_SHORT = 64  # elements; longer lists are the vocabulary


class Tags:
    """What is served."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        catalog = self._service.desk.catalog
        found = await self._service.work(catalog.names)
        elsewhere = await self._service.work(catalog.far_names)
        latest = sorted(found, key=lambda one: -one.model.added_at)
        return JSONResponse({"models": [*map(_tag, latest), *map(_far_tag, elsewhere)]})


class Ps:
    """What is in memory."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        busy = await self._service.work(self._service.desk.busy)
        models = []
        for one in busy:
            left = one.loaded.expires_s
            end = time.time() + (_FOREVER_S if left is None or math.isinf(left) else left)
            load = one.load
            models.append(
                {
                    "name": one.name,
                    "model": one.name,
                    "size": one.resident.memory_bytes,
                    "digest": _digest(one.model, one.model.attached),
                    "details": _details(one.model),
                    "expires_at": words.moment(end),
                    "size_vram": one.resident.gpu_bytes,
                    "context_length": one.resident.n_ctx,
                    # beside Ollama's fields
                    "slots": load.n_slots if load else 1,
                    "running": load.n_running if load else 0,
                    "waiting": load.n_waiting if load else 0,
                    "load_duration": words.ns(one.loaded.load_s),
                }
            )
        return JSONResponse({"models": models})


class Show:
    """One model."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        body = await self._service.bodies.parse(request, NameBody)
        if (far := await self._service.far(body.model)) is not None:
            return JSONResponse(_far_shown(far))
        return JSONResponse(await self._service.work(lambda: self._shown(body)))

    def _shown(self, body: NameBody) -> dict[str, Any]:
        model = self._service.desk.catalog.find(body.model).model
        header = read_model(model.path)
        extras = model.extras
        template = extras.get("template") or header.text("tokenizer.chat_template") or ""
        found: dict[str, Any] = {
            "modelfile": modelfile_of(model).text(),
            "template": template,
            "parameters": _parameters(extras.get("parameters")),
            "details": _details(model),
            "model_info": _info(header, model, whole=bool(body.verbose)),
            "capabilities": _capabilities(model, header, template),
            "modified_at": words.moment(model.added_at),
        }
        for key in ("system", "license"):
            if extras.get(key):
                found[key] = extras[key]
        if messages := modelfile_of(model).messages:
            found["messages"] = [{"role": role, "content": text} for role, text in messages]
        return found


def _tag(served: Served) -> dict[str, Any]:
    model = served.model
    return {
        "name": served.name,
        "model": served.name,
        "modified_at": words.moment(model.added_at),
        "size": model.size_bytes,
        "digest": _digest(model, served.adapters),
        "details": _details(model),
    }


def _far_tag(one: FarAlias) -> dict[str, Any]:
    return {
        "name": one.name,
        "model": one.name,
        "modified_at": words.moment(one.far.added_at),
        "size": 0,
        "digest": words.digest_of(f"{one.far.kind} {one.name}"),
        "details": _far_details(one.far),
    }


def _far_details(far: Far) -> dict[str, Any]:
    return {
        "parent_model": "", "format": far.kind, "family": "", "families": [],
        "parameter_size": "", "quantization_level": "",
    }  # fmt: skip


def _far_shown(far: Far) -> dict[str, Any]:
    """What is known of it here; what it can is said by whoever answers."""
    return {
        "modelfile": "", "template": "", "parameters": "", "details": _far_details(far),
        "model_info": {}, "capabilities": ["completion", "tools"],
        "modified_at": words.moment(far.added_at),
    }  # fmt: skip


def _digest(model: Model, adapters: Sequence[tuple[Path, float]]) -> str:
    """Of the files; where nobody has hashed them, of what tells them apart. Clients take names of
    one digest for one model: what a Modelfile or the operator put upon the files counts too."""
    known = model.digest or next((file.sha256 for file in model.files if file.sha256), None)
    known = known or words.digest_of(f"{model.name} {model.size_bytes} {model.added_at}")
    preset = {key: model.extras[key] for key in INHERITED if model.extras.get(key)}
    if not preset and adapters == model.attached:
        return known
    return words.digest_of(json.dumps([known, preset, [[str(p), s] for p, s in adapters]]))


def _details(model: Model) -> dict[str, Any]:
    family = model.architecture or ""
    parent = model.lineage.parents[0][0] if model.lineage and model.lineage.parents else ""
    return {
        "parent_model": Path(parent).name if Path(parent).is_absolute() else parent,
        "format": model.format,
        "family": family,
        "families": [family] if family else [],
        "parameter_size": words.parameter_size(model.n_params) if model.n_params else "",
        "quantization_level": model.file_type or "",
    }


def _parameters(given: Any) -> str:
    """As a Modelfile writes them."""
    if not isinstance(given, Mapping):
        return ""
    lines = []
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            text = f'"{one}"' if isinstance(one, str) else one
            lines.append(f"{name:<30} {text}")
    return "\n".join(lines)


def _info(header: GGUFModel, model: Model, *, whole: bool) -> dict[str, Any]:
    """The file's own keys; long lists (the vocabulary) only where everything is asked for."""
    found: dict[str, Any] = {}
    for key in header.metadata:
        if key.startswith("tokenizer.chat_template"):
            continue  # it stands in `template`
        kind = header.metadata.info(key)
        if kind.element_type is not None and kind.length > _SHORT and not whole:
            found[key] = None
            continue
        value = header.metadata[key]
        if isinstance(value, tuple):
            found[key] = [_plain(one) for one in value]
        else:
            found[key] = _plain(value)
    if model.n_params:
        found["general.parameter_count"] = model.n_params
    return found


def _plain(value: int | float | str) -> int | float | str | None:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _capabilities(model: Model, header: GGUFModel, template: str) -> list[str]:
    if header.arch_u32("pooling_type"):
        return ["embedding"]
    found = ["completion", *(["vision"] if model.with_role("mmproj") else ())]
    if any(f"tokenizer.ggml.{key}_token_id" in header.metadata for key in ("fim_mid", "middle")):
        found.append("insert")
    if "tools" in template or ".Tools" in template:
        found.append("tools")
    if "<think>" in template or "</think>" in template or ".Thinking" in template:
        found.append("thinking")
    return found
