"""What a recipe makes of a model, tensor by tensor and to the byte, before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.engine.ftypes import ftype
from localllm.errors import DamagedFile
from localllm.formats.gguf.rewrite import NewHeader
from localllm.quantize.headers import shard_order, written_headers
from localllm.quantize.plan_checks import check_layers, check_plan
from localllm.quantize.recipe import Recipe, Scalar
from localllm.quantize.source import Source

if TYPE_CHECKING:
    from localllm.engine.quantize.quantize import (
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
    from localllm.engine.quantize.options import DEFAULT_BUFFER_BYTES, QuantizeOptions

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
    from localllm.engine.quantize.quantize import ImportanceFile

    check_layers(source, request.recipe)
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
    check_plan(source, request, plan)
    return plan


def headers_of(
    plan: Plan, source: Source, request: Request, metadata: Mapping[str, Scalar]
) -> tuple[NewHeader, ...]:
    """The headers of the files to be written, which also carry `metadata`."""
    pruned = request.recipe.prune_layers
    recipe = ftype(request.recipe.type)
    kept = source.gguf.u32("general.file_type", recipe.number)
    return written_headers(
        source.gguf,
        plan.tensors,
        engine_options(source, request, metadata).metadata,
        kept if recipe.copies else recipe.number,
        pruned=len(set(pruned)),
        shard_of=shard_order(source.gguf, pruned) if request.recipe.keep_split else None,
    )


def sized(plan: Plan, headers: Sequence[NewHeader]) -> Plan:
    """The plan with the exact sizes of the files that begin with `headers`."""
    return replace(plan, file_bytes=tuple(header.file_bytes for header in headers))


def _requantized(tensors: tuple[TensorPlan, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for t in tensors:
        if t.from_type != t.to_type and t.from_type.lower() not in FLOATS:
            found[t.from_type] = found.get(t.from_type, 0) + 1
    return found


def is_quantized(type_name: str) -> bool:
    """Whether tensors of this type lose something."""
    return type_name.lower() not in FLOATS
