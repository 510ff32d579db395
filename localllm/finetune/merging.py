"""`--merge`: the adapter put into its base, quantized, and judged on the same held-out examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import GateFailed, UsageProblem
from localllm.finetune.outcome.judge import GAIN, KEPT, MOST_JUDGED, Engine
from localllm.finetune.outcome.result import KIND, Tuned

if TYPE_CHECKING:
    from localllm.finetune.recipe import Recipe
    from localllm.finetune.request import Subject
    from localllm.finetune.run import Ready
    from localllm.library.merging.result import MergedAdapters
    from localllm.registry import Registry
    from localllm.ui import Sink


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


def check_merge_type(recipe: Recipe, subject: Subject) -> None:
    """Raise UsageProblem for a type that the merge could not be stored in: one that needs an
    importance matrix, which depends on the model's shapes. Asks llama.cpp; a second at most."""
    from localllm.engine.quantize.quantize import Quantizer
    from localllm.library.merging.types import plan_types, recipe_named

    if recipe.merge in (None, "auto"):
        return
    kind = recipe_named(str(recipe.merge))
    with Quantizer() as quantizer:
        try:
            plan_types(subject.model.path, kind, quantizer, weighted=False)
        except UsageProblem as problem:
            raise UsageProblem(
                f"--merge {recipe.merge}: {problem.message}, and finetune has none",
                "--merge Q3_K_M, or leave it out and then: localllm merge "
                f"{subject.model.name} --lora NAME --type {kind.name} --imatrix auto",
            ) from None


def merge_result(done: Tuned, ready: Ready, registry: Registry, sink: Sink) -> Tuned:
    """The same with `merged`: the model that was made, and how it judges (see `lost`).

    Raises what `merge_adapters` raises (GateFailed for a type that would lose the tuning).
    """
    from localllm.library.merging.adapters import merge_adapters
    from localllm.library.merging.result import AdapterRequest
    from localllm.library.merging.types import recipe_named

    wanted = ready.recipe.merge or "auto"
    kind = None if wanted == "auto" else recipe_named(wanted).name
    request = AdapterRequest(type=kind, n_threads=ready.threads)

    def merge(request: AdapterRequest, *, dry_run: bool) -> MergedAdapters:
        return merge_adapters(
            ready.subject.model, [(done.model, 1.0)], request, registry, sink.progress, sink.note,
            dry_run=dry_run,
        )  # fmt: skip

    if kind is None:  # the name tells it
        kind = merge(request, dry_run=True).type
    made = merge(replace(request, name=merged_name(done.name, kind)), dry_run=False)
    assert made.model is not None
    found: dict[str, Any] = {
        "name": made.name, "type": made.type, "file_bytes": made.file_bytes,
        "path": str(made.model.path), "loss": None, "kept": None, "asked": wanted.upper(),
    }  # fmt: skip
    if done.judged is not None:
        found |= _judged(done, ready, made.model.path)
    merged = replace(done, merged=found)
    registry.record(done.model, KIND, merged.figures())
    return merged


def is_merged(done: Tuned, recipe: Recipe, registry: Registry) -> bool:
    """Whether the merge that is wanted was made before and is still there."""
    found = done.merged
    if found is None or recipe.merge is None or found.get("asked") != recipe.merge.upper():
        return False
    return any(model.name == found["name"] for model in registry.models())


def lost(done: Tuned) -> GateFailed | None:
    """What is wrong where the merged model has less than half of what the adapter gained. It
    stays registered all the same: it can be looked at, and `rm` removes it."""
    found = done.merged
    if found is None or found["kept"] is None or found["kept"] >= KEPT:
        return None
    return GateFailed(
        f"{found['name']} kept {found['kept']:.0%} of what was learned, by its held-out loss",
        f"a type with more bits: localllm merge {done.base} --lora {done.name} --type TYPE",
    )


def merged_name(tuned: str, kind: str) -> str:
    """`mine:Q6_K` for mine, `gemma:pirate-Q6_K` for gemma:pirate (and gemma:pirate-lora)."""
    name, _, variant = tuned.partition(":")
    mark = variant.removesuffix("-lora")
    return f"{name}:{mark}-{kind}" if mark else f"{name}:{kind}"


def _judged(done: Tuned, ready: Ready, path: Path) -> dict[str, float | None]:
    """The merged model on the held-out examples, and the share of the gain that it has."""
    held = ready.learning.held_out
    examples = [held[i][0] for i in range(min(MOST_JUDGED, len(held)))]
    longest = max(len(one) for one in examples)
    with Engine(path, longest + 8, threads=ready.threads) as engine:
        loss = engine.judge(examples).loss
    assert done.judged is not None
    gain = done.judged.before.loss - done.judged.after.loss
    # what pairs gain is not in the loss of the chosen answers, and of hardly any gain no share
    # says anything
    counts = done.judged.preferred_before is None and gain > GAIN
    return {"loss": loss, "kept": (done.judged.before.loss - loss) / gain if counts else None}
