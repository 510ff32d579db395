"""Whether all models of a comparison can be in memory at once, by their plans."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.engine.quality.chunks import BatchSize
from localllm.placement import Plan, PlanOptions, Target, settled_plan
from localllm.registry import Model

_F32 = 4
_TOKENS = "tokenizer.ggml.tokens"


def fit_together(
    models: Sequence[Model], target: Target, options: PlanOptions, batch: BatchSize
) -> bool:
    """Whether `target` holds all `models` with their contexts and rows of logits, each placed as
    it would be alone."""
    from localllm.formats.gguf import read_model

    plans = []
    logits = 0
    for model in models:
        header = read_model([file.path for file in model.weights])
        plan = settled_plan(header, model.path, target, options)
        if not plan.runs:
            return False
        plans.append(plan)
        n_vocab = header.metadata.info(_TOKENS).length if _TOKENS in header.metadata else 0
        logits += _F32 * batch.n_rows * n_vocab
    host = sum(plan.host.total_bytes for plan in plans) + logits
    return host <= target.host_available_bytes and all(
        _on_device(plans, i) <= gpu.free_bytes - gpu.headroom_bytes
        for i, gpu in enumerate(target.gpus)
    )


def _on_device(plans: Sequence[Plan], i: int) -> int:
    used = [plan.devices[i] for plan in plans]
    return sum(need.total_bytes for need in used if need.n_layers or need.holds_output)
