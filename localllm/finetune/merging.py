"""`--merge`: the adapter put into its base, quantized, and judged on the same held-out examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import GateFailed, UsageProblem
from localllm.finetune.outcome.judge import Engine
from localllm.finetune.outcome.result import KIND, Tuned

if TYPE_CHECKING:
    from localllm.finetune.recipe import Recipe
    from localllm.finetune.run import Ready
    from localllm.registry import Registry
    from localllm.ui import Sink

_MOST_JUDGED = 200
_KEPT = 0.5


def check_merge(recipe: Recipe) -> None:
    """Raise UsageProblem before hours of training for a merge that cannot be."""
    if recipe.merge is None:
        return
    if recipe.method not in ("lora", "rslora"):
        raise UsageProblem(
            f"--method {recipe.method} gives a whole model: there is nothing to merge",
            "localllm quantize NAME TYPE, when it is done",
        )
    if recipe.merge != "auto":
        from localllm.library.merging.types import recipe_named

        recipe_named(recipe.merge)


def merge_result(done: Tuned, ready: Ready, registry: Registry, sink: Sink) -> Tuned:
    """The same with `merged`: the model that was made, and how it judges.

    Raises what `merge_adapters` raises (GateFailed for a type that would lose the tuning), and
    GateFailed where the merged model judges worse than half of what the adapter gained.
    """
    from localllm.library.merging.adapters import merge_adapters
    from localllm.library.merging.result import AdapterRequest

    kind = None if ready.recipe.merge == "auto" else ready.recipe.merge
    request = AdapterRequest(type=kind, n_threads=ready.threads)
    made = merge_adapters(
        ready.subject.model, [(done.model, 1.0)], request, registry, sink.progress, sink.note
    )
    assert made.model is not None
    found: dict[str, Any] = {
        "name": made.name, "type": made.type, "file_bytes": made.file_bytes,
        "path": str(made.model.path), "loss": None, "kept": None,
    }  # fmt: skip
    if done.judged is not None:
        found |= _judged(done, ready, made.model.path)
    merged = replace(done, merged=found)
    registry.record(done.model, KIND, merged.figures())
    if found["kept"] is not None and found["kept"] < _KEPT:
        raise GateFailed(
            f"{made.name} kept {found['kept']:.0%} of what was learned, by its held-out loss",
            f"a type with more bits: localllm merge {done.base} {done.name}",
        )
    return merged


def _judged(done: Tuned, ready: Ready, path: Path) -> dict[str, float | None]:
    """The merged model on the held-out examples, and the share of the gain that it has."""
    held = ready.learning.held_out
    examples = [held[i][0] for i in range(min(_MOST_JUDGED, len(held)))]
    longest = max(len(one) for one in examples)
    with Engine(path, longest + 8, threads=ready.threads) as engine:
        loss = engine.judge(examples).loss
    assert done.judged is not None
    gain = done.judged.before.loss - done.judged.after.loss
    return {"loss": loss, "kept": (done.judged.before.loss - loss) / gain if gain > 0 else None}
