"""What a plan must be before it is made: llama.cpp would say so late, or break down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from localllm.engine.ftypes import ftype, needs_imatrix
from localllm.errors import UsageProblem
from localllm.quantize.importance import unweighted
from localllm.quantize.recipe import Recipe, mixes

if TYPE_CHECKING:
    from localllm.quantize.plan import Plan, Request
    from localllm.quantize.source import Source

# ggml_quantize_requires_imatrix in ggml.c
_NEVER_WITHOUT = ("iq2_xxs", "iq2_xs", "iq1_s")
# What importance matrices leave out unless told.
LEFT_OUT = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")


def check_plan(source: Source, request: Request, plan: Plan) -> None:
    """Raise UsageProblem for what llama.cpp would refuse, or crash on, in the middle of it."""
    if plan.requantized and not request.allow_requantize:
        most = max(plan.requantized, key=lambda name: plan.requantized[name])
        raise UsageProblem(
            f"{source.model.name} is quantized already ({most}): quantized again it loses more "
            "than from F16 or BF16",
            "take the F16 or BF16 of this model, or say --allow-requantize",
        )
    if plan.needs_imatrix and request.importance is None:
        raise _without_importance(request, plan)
    _check_rows(plan)
    _check_weighted(request, plan)
    _check_embeddings(request, plan)
    if request.planned is not None:
        _check_planned(request.planned, plan)


def _without_importance(request: Request, plan: Plan) -> UsageProblem:
    """A tensor's own type may be the cause, where the preset needs none."""
    if request.recipe.tensor_types and not needs_imatrix(ftype(plan.type).base, plan.type):
        for t in plan.tensors:
            if needs_imatrix(t.to_type, plan.type):
                return UsageProblem(
                    f"{t.name} cannot be {t.to_type} without an importance matrix",
                    "--imatrix auto (or FILE), or give it q3_k, which needs none",
                )
    return UsageProblem(
        f"{plan.type} needs an importance matrix for this model",
        "--imatrix auto (or FILE), or take Q3_K_S, which needs none",
    )


def _check_rows(plan: Plan) -> None:
    """llama.cpp looks for another type where rows do not divide, but not where an option names
    the embedding's or the output's."""
    from localllm.formats.gguf import GGML_TYPES

    blocks = {t.name.lower(): t.block_elements for t in GGML_TYPES.values()}
    for t in plan.tensors:
        block = blocks.get(t.to_type.lower(), 1)
        if t.shape[0] % block:
            raise UsageProblem(
                f"{t.name} cannot be {t.to_type}: its rows have {t.shape[0]} elements, which "
                f"{block} does not divide",
                f"{_option(t.name)} q8_0, iq4_nl or f16",
            )


def _check_embeddings(request: Request, plan: Plan) -> None:
    """llama.cpp asks for no importance of embedding and output, and ggml then ends the process."""
    vectors = request.importance.vectors if request.importance is not None else {}
    for t in plan.tensors:
        if t.name in LEFT_OUT and t.to_type.lower() in _NEVER_WITHOUT and t.name not in vectors:
            raise UsageProblem(
                f"{t.name} cannot be {t.to_type} without its importance, which importance "
                "matrices leave out unless told",
                f"localllm imatrix MODEL --output, or {_option(t.name)} iq2_s",
            )


def _option(tensor: str) -> str:
    """What names the type of this tensor on the command line."""
    return "--output-tensor-type" if tensor == "output.weight" else "--token-embedding-type"


def _check_weighted(request: Request, plan: Plan) -> None:
    """That the importance matrix has the tensors for which llama.cpp will not do without."""

    if request.importance is None:
        return
    types = {t.name: t.to_type for t in plan.tensors}
    for name in unweighted(request.importance, plan.tensors, request.recipe.prune_layers):
        if needs_imatrix(types[name], plan.type):
            raise UsageProblem(
                f"the importance matrix says nothing of {name}, which {types[name]} needs",
                f"leave out --exclude-weights, or --tensor-type '^{name}$=q3_k'",
            )


def _check_planned(planned: Mapping[str, str], plan: Plan) -> None:
    """That each tensor a plan names is there and gets the type which the plan gives it."""
    tensors = {t.name: t for t in plan.tensors}
    fell = {f.tensor for f in plan.fallbacks}
    if missing := [name for name in planned if name not in tensors]:
        more = f" (nor {len(missing) - 1} more of its tensors)" if missing[1:] else ""
        raise UsageProblem(f"the plan is of another model: this one has no {missing[0]}{more}")
    for name, kind in planned.items():
        made = tensors[name]
        if made.to_type.lower() != kind:
            why = f" (its rows have {made.shape[0]} elements)" if name in fell else ""
            raise UsageProblem(
                f"the plan gives {name} the type {kind}, llama.cpp {made.to_type}{why}",
                "change that line of the plan"
                if mixes(ftype(plan.type))
                else f"{plan.type} gives all the same type: say another in the plan's first lines, "
                "such as Q8_0",
            )


def check_layers(source: Source, recipe: Recipe) -> None:
    """Raise UsageProblem for layers that are not there, or cannot be left out."""
    if not recipe.prune_layers:
        return
    n_layers = source.n_layers
    if recipe.prune_layers[-1] >= n_layers or len(recipe.prune_layers) >= n_layers:
        raise UsageProblem(
            f"{source.model.name} has the layers 0 to {n_layers - 1}, and at least one must stay"
        )
    arch = source.gguf.architecture
    for key in source.gguf.metadata:
        info = source.gguf.metadata.info(key)
        if key.startswith(f"{arch}.") and info.element_type and info.length == n_layers:
            raise UsageProblem(
                f"layers of {source.model.name} cannot be left out: {key} has a value for each "
                "layer, which llama.cpp would not shorten"
            )
