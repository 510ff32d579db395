"""What a ladder is made of: its rungs, planned to the byte and placed on this machine, before
anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.errors import DamagedFile, LocalLLMError
from localllm.formats.gguf import GGML_TYPES, GGUFView, Metadata, TensorInfo
from localllm.library.candidates import Memory
from localllm.quantize.plan import Request
from localllm.quantize.quantize import preview
from localllm.quantize.result import PlannedTensor, Quantized
from localllm.quantize.source import Source
from localllm.ui import Bytes, Progress

if TYPE_CHECKING:
    from localllm.placement import Plan

# From nearly lossless to what is only worth it where nothing else fits, in steps of about a
# seventh of the size. Types below IQ2_M are left to who asks for them.
DEFAULT_TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "IQ2_M")
_SMALLER = 0.97  # a rung must be smaller than the one above it by this to say anything new


@dataclass(frozen=True)
class Fit:
    """How a model runs on this machine at a context of `n_ctx` tokens (see `localllm fit`)."""

    verdict: str  # "all" | "partial" | "cpu" | "none"
    runs: bool
    need_bytes: int
    n_ctx: int


@dataclass(frozen=True)
class PlannedRung:
    """`plan` is exact, `fit` by arithmetic; None where `problem` says why there is none."""

    request: Request
    plan: Quantized | None
    fit: Fit | None
    problem: LocalLLMError | None = None

    @property
    def type(self) -> str:
        return self.request.recipe.type


@dataclass(frozen=True)
class LeftOut:
    """A type of the default set that is no rung here, and why."""

    type: str
    why: str


def plan_rungs(
    source: Source, requests: Sequence[Request], memory: Memory, progress: Progress
) -> list[PlannedRung]:
    """Every request planned by llama.cpp, about half a second each; nothing is written."""
    found = []
    with progress.steps("plan", len(requests)) as advance:
        for request in requests:
            found.append(_planned(source, request, memory, progress))
            advance(1)
    return found


def _planned(
    source: Source, request: Request, memory: Memory, progress: Progress
) -> PlannedRung:  # fmt: skip
    try:
        plan = preview(source, request, progress)
    except LocalLLMError as error:
        return PlannedRung(request, None, None, error)
    if request.recipe.prune_layers:  # another number of layers than the source says
        return PlannedRung(request, plan, None)
    try:
        return PlannedRung(
            request, plan, fit_of(memory.plan(as_planned(source.gguf, plan.tensors)))
        )
    except DamagedFile:  # of a kind that nothing is known of
        return PlannedRung(request, plan, None)


def fit_of(plan: Plan) -> Fit:
    """What counts of a plan here."""
    return Fit(plan.verdict, plan.runs, plan.total_bytes, plan.n_ctx)


def sensible(
    planned: Sequence[PlannedRung], source_bytes: int, room: str
) -> tuple[list[PlannedRung], list[LeftOut]]:
    """Of the default set, the rungs that mean something for this model on this machine.

    Left out are types that come out no smaller than the source or than the rung above (rows
    that a type does not divide fall back, so that several types become one), types that cannot
    be made (each says why), and what this machine's memory cannot hold, which could not be
    measured either. Where it holds none of them, none is left.
    """
    kept: list[PlannedRung] = []
    out: list[LeftOut] = []
    above, name = source_bytes, "the source"
    for rung in planned:
        if rung.plan is None:
            out.append(LeftOut(rung.type, rung.problem.message if rung.problem else "no plan"))
        elif rung.plan.file_bytes > _SMALLER * above:
            out.append(LeftOut(rung.type, f"no smaller than {name}"))
        elif rung.fit is not None and not rung.fit.runs:
            needed = f"{Bytes(rung.fit.need_bytes)} at a context of {rung.fit.n_ctx}"
            out.append(LeftOut(rung.type, f"needs {needed}, more than {room}"))
        else:
            kept.append(rung)
            above, name = rung.plan.file_bytes, rung.type
    return kept, out


@dataclass(frozen=True, eq=False)
class _AsPlanned(GGUFView):
    name: str
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]


def as_planned(source: GGUFView, tensors: Sequence[PlannedTensor]) -> GGUFView:
    """The header that a quantization will have, as far as memory goes."""
    kinds = {kind.name.lower(): kind for kind in GGML_TYPES.values()}
    made = {
        t.name: TensorInfo(
            t.name, t.shape, kinds[t.to_type.lower()], 0, t.after_bytes,
            source.tensors[t.name].n_elements,
        )
        for t in tensors
    }  # fmt: skip
    return _AsPlanned(source.name, source.metadata, made)
