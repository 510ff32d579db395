"""What a quantization comes to: sizes, types, and why they are what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from localllm.quantize.importance import unweighted
from localllm.quantize.plan import Plan, Request
from localllm.quantize.source import Source
from localllm.registry import Model


@dataclass(frozen=True)
class TypeChange:
    """How many tensors went from one type to another, and what they take now."""

    from_type: str
    to_type: str
    tensors: int
    before_bytes: int
    after_bytes: int


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor: what it is and becomes. `reason` says why it is not what the type asked for."""

    name: str
    shape: tuple[int, ...]
    from_type: str
    to_type: str
    before_bytes: int
    after_bytes: int
    reason: str | None


@dataclass(frozen=True)
class Quantized:
    """What was made, or (`model` None) would be.

    `before_bytes` and `after_bytes` are of tensor data, `file_bytes` of the files with their
    headers, exact before anything is written. `fallbacks` are tensors whose shape the wanted
    type does not allow, `unweighted` those of which the importance matrix says nothing.
    """

    model: Model | None
    name: str
    source: str
    type: str
    reused: bool
    before_bytes: int
    after_bytes: int
    file_bytes: int
    bits_per_weight: float
    changes: tuple[TypeChange, ...]
    fallbacks: tuple[str, ...]
    unweighted: tuple[str, ...]
    requantized: Mapping[str, int]
    tensors: tuple[PlannedTensor, ...]
    elapsed_s: float


def result_of(
    model: Model | None,
    name: str,
    source: Source,
    request: Request,
    plan: Plan,
    elapsed_s: float,
) -> Quantized:
    """What came of a plan; `model` None where nothing was written."""
    weights, pruned = request.importance, request.recipe.prune_layers
    return Quantized(
        model=model,
        name=name,
        source=source.model.name,
        type=plan.type,
        reused=False,
        before_bytes=plan.before_bytes,
        after_bytes=plan.after_bytes,
        file_bytes=plan.size_bytes,
        bits_per_weight=plan.bits_per_weight,
        changes=_changes(plan),
        fallbacks=tuple(f"{f.tensor}: {f.wanted} -> {f.used}" for f in plan.fallbacks),
        unweighted=() if weights is None else unweighted(weights, plan.tensors, pruned),
        requantized=plan.requantized,
        tensors=_tensors(plan),
        elapsed_s=elapsed_s,
    )


def reused(model: Model, source: Source, request: Request) -> Quantized:
    """The facts of a result that is there, from its header and the source's."""
    from localllm.library import header_of

    after = header_of(model)
    return Quantized(
        model=model,
        name=model.name,
        source=source.model.name,
        type=request.recipe.type,
        reused=True,
        before_bytes=source.gguf.weights_bytes,
        after_bytes=after.weights_bytes,
        file_bytes=model.size_bytes,
        bits_per_weight=after.bits_per_weight or 0.0,
        changes=(),
        fallbacks=(),
        unweighted=(),
        requantized={},
        tensors=(),
        elapsed_s=0.0,
    )


def _tensors(plan: Plan) -> tuple[PlannedTensor, ...]:
    fell = {
        f.tensor: f"rows of {f.row_length} do not divide by {f.wanted}'s {f.block_length}"
        for f in plan.fallbacks
    }
    return tuple(
        PlannedTensor(
            t.name, t.shape, t.from_type, t.to_type, t.before_bytes, t.after_bytes, fell.get(t.name)
        )
        for t in plan.tensors
    )


def _changes(plan: Plan) -> tuple[TypeChange, ...]:
    sums: dict[tuple[str, str], list[int]] = {}
    for t in plan.tensors:
        row = sums.setdefault((t.from_type, t.to_type), [0, 0, 0])
        row[0] += 1
        row[1] += t.before_bytes
        row[2] += t.after_bytes
    ordered = sorted(sums.items(), key=lambda item: -item[1][1])
    return tuple(TypeChange(*types, *row) for types, row in ordered)
