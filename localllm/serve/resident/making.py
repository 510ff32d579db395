"""A context for vectors beside a model that answers: planned when the first vector is asked for."""

from __future__ import annotations

from dataclasses import replace

from localllm.engine.context import Context
from localllm.errors import DoesNotFit
from localllm.formats.gguf import read_model
from localllm.placement import (
    ContextNeed,
    Opened,
    PlanOptions,
    Target,
    beside_model,
    settled_plan,
    vector_options,
)
from localllm.registry import Model
from localllm.serve.resident.embedder import Embedder
from localllm.ui import Bytes


def embedder_beside(
    opened: Opened, model: Model, n_tokens_max: int, target: Target, allowed_bytes: int | None
) -> Embedder:
    """For texts of up to `n_tokens_max` tokens; such a model names no pooling, and gets the mean.

    `target` is the machine with the model loaded; of it at most `allowed_bytes` are taken. Raises
    DoesNotFit where there is no room, EngineError when llama.cpp finds none.
    """
    options = vector_options(PlanOptions(), n_tokens_max, "mean")
    need = _need(opened, model, options, target)
    _check(model, need, target, allowed_bytes)
    made = options.context(options.n_ctx or n_tokens_max)
    context = Context(opened.model, replace(made, n_threads=opened.context.n_threads))
    return Embedder(context, n_tokens_max, need)


def _need(opened: Opened, model: Model, options: PlanOptions, target: Target) -> ContextNeed:
    """By a plan for the model with this context, its weights where they are."""
    held = opened.plan
    on_gpu = {device.name: device.total_bytes for device in held.devices}
    freed = replace(
        target,
        gpus=tuple(
            replace(gpu, free_bytes=gpu.free_bytes + on_gpu.get(gpu.name, 0)) for gpu in target.gpus
        ),
        host_available_bytes=target.host_available_bytes + held.host.total_bytes,
    )
    options = replace(options, n_gpu_layers=held.n_offloaded if target.gpus else None)
    plan = settled_plan(read_model(model.path), model.path, freed, options, exact=True)
    return beside_model(plan)


def _check(model: Model, need: ContextNeed, target: Target, allowed_bytes: int | None) -> None:
    free = {gpu.name: gpu.free_bytes - gpu.headroom_bytes for gpu in target.gpus}
    short = [need.host_bytes - target.host_available_bytes]
    short += [n - max(0, free[name]) for name, n in need.gpu_bytes.items() if n and name in free]
    if allowed_bytes is not None:
        short.append(need.total_bytes - allowed_bytes)
    if max(short) > 0:
        raise DoesNotFit(
            f"vectors of {model.name} need {Bytes(need.total_bytes)} beside it, "
            f"{Bytes(max(short))} more than there is",
            "serve it with a smaller --ctx",
        )
