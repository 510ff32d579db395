"""What a recipe makes of a model, tensor by tensor and to the byte, before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import DamagedFile, UsageProblem
from localllm.quantize.filesize import file_sizes, shard_order
from localllm.quantize.recipe import Recipe, Scalar
from localllm.quantize.source import Source

if TYPE_CHECKING:
    from localllm.engine.quantize import (
        Fallback,
        ImportanceFile,
        QuantizeOptions,
        Quantizer,
        TensorPlan,
    )
    from localllm.quantize.importance import Importance

FLOATS = ("f32", "f16", "bf16", "f64")


@dataclass(frozen=True)
class Request:
    """A recipe, and what does not change which type a tensor gets."""

    recipe: Recipe
    importance: Importance | None = None
    planned: Mapping[str, str] | None = None  # types by tensor that must come out just so
    allow_requantize: bool = False
    n_threads: int = 0  # 0: all that there are
    max_buffer_bytes: int | None = None
    name: str | None = None  # of the result; by default the model's and the type's
    search: Mapping[str, Any] | None = None  # what was asked for, where types were searched for


@dataclass(frozen=True)
class Plan:
    """Every tensor and its type. `file_bytes` are the exact sizes of the files to be written,
    known when it is known what metadata they carry (`sized`)."""

    type: str
    tensors: tuple[TensorPlan, ...]
    fallbacks: tuple[Fallback, ...]
    before_bytes: int  # of tensor data
    after_bytes: int
    n_params: int
    needs_imatrix: bool
    requantized: Mapping[str, int]  # quantized type -> tensors
    llama_commit: str
    file_bytes: tuple[int, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(self.file_bytes)

    @property
    def bits_per_weight(self) -> float:
        """Of tensor data, as llama.cpp counts."""
        return self.after_bytes * 8 / self.n_params if self.n_params else 0.0


def engine_options(
    source: Source,
    request: Request,
    metadata: Mapping[str, Scalar] | None = None,
    importance: ImportanceFile | None = None,
) -> QuantizeOptions:
    """The request as the engine takes it, `metadata` added to the recipe's."""
    from localllm.engine.quantize_options import DEFAULT_BUFFER_BYTES, QuantizeOptions

    recipe = request.recipe
    return QuantizeOptions(
        ftype=recipe.type,
        output_type=recipe.output_tensor_type,
        token_embedding_type=recipe.token_embedding_type,
        tensor_types=recipe.tensor_types,
        pure=recipe.pure,
        leave_output=recipe.leave_output_tensor,
        allow_requantize=request.allow_requantize,
        keep_split=recipe.keep_split,
        prune_layers=recipe.prune_layers,
        importance=importance,
        n_threads=request.n_threads,
        max_buffer_bytes=request.max_buffer_bytes or DEFAULT_BUFFER_BYTES,
        metadata={**_alignment(source), **recipe.metadata, **(metadata or {})},
    )


def _alignment(source: Source) -> dict[str, Scalar]:
    """llama.cpp pads to 32 bytes whatever the source says: the result must not say otherwise."""
    stated = source.gguf.u32("general.alignment", 32)
    return {} if stated == 32 else {"general.alignment": 32}


def make_plan(source: Source, request: Request, quantizer: Quantizer) -> Plan:
    """Ask llama.cpp what it would do. Seconds at most; writes nothing.

    Raises UsageProblem for what llama.cpp would refuse later, DamagedFile, EngineError.
    """
    from localllm.engine.quantize import ImportanceFile

    _check_layers(source, request.recipe)
    # that there is one changes types; what is in it does not
    importance = ImportanceFile(Path(), ()) if request.importance else None
    report = quantizer.plan(source.path, engine_options(source, request, {}, importance))
    if not report.tensors:
        raise DamagedFile(f"{source.model.name} has no tensors to quantize")
    plan = Plan(
        type=report.ftype,
        tensors=report.tensors,
        fallbacks=report.fallbacks,
        before_bytes=report.before_bytes,
        after_bytes=report.after_bytes,
        n_params=report.n_params,
        needs_imatrix=report.needs_imatrix,
        requantized=_requantized(report.tensors),
        llama_commit=report.llama_commit,
    )
    _check(source, request, plan)
    return plan


def sized(plan: Plan, source: Source, request: Request, metadata: Mapping[str, Scalar]) -> Plan:
    """The plan with the exact sizes of its files, which also carry `metadata`."""
    pruned = request.recipe.prune_layers
    sizes = file_sizes(
        source.gguf,
        plan.tensors,
        engine_options(source, request, metadata).metadata,
        pruned=bool(pruned),
        shard_of=shard_order(source.gguf, pruned) if request.recipe.keep_split else None,
    )
    return replace(plan, file_bytes=sizes)


def _requantized(tensors: tuple[TensorPlan, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for t in tensors:
        if t.from_type != t.to_type and t.from_type.lower() not in FLOATS:
            found[t.from_type] = found.get(t.from_type, 0) + 1
    return found


def _check(source: Source, request: Request, plan: Plan) -> None:
    if plan.requantized and not request.allow_requantize:
        most = max(plan.requantized, key=lambda name: plan.requantized[name])
        raise UsageProblem(
            f"{source.model.name} is quantized already ({most}): quantized again it loses more "
            "than from F16 or BF16",
            "take the F16 or BF16 of this model, or say --allow-requantize",
        )
    if plan.needs_imatrix and request.importance is None:
        raise UsageProblem(
            f"{plan.type} needs an importance matrix for this model",
            "--imatrix auto (or FILE), or take Q3_K_S, which needs none",
        )
    _check_weighted(request, plan)
    if request.planned is not None:
        _check_planned(request.planned, plan)


def _check_weighted(request: Request, plan: Plan) -> None:
    """That the importance matrix has the tensors for which llama.cpp will not do without."""
    from localllm.engine.ftypes import needs_imatrix
    from localllm.quantize.importance import unweighted

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
                "change that line of the plan",
            )


def _check_layers(source: Source, recipe: Recipe) -> None:
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


def is_quantized(type_name: str) -> bool:
    """Whether tensors of this type lose something."""
    return type_name.lower() not in FLOATS
