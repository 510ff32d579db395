"""What a search may choose: the tensors that are free, the types each may get, and what the
presets of llama.cpp would make of the same model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from localllm.engine.ftypes import FTYPES
from localllm.errors import UsageProblem
from localllm.quantize.plan import FLOATS, Plan, Request, make_plan
from localllm.quantize.planfile import patterns_of
from localllm.quantize.quantize import priced
from localllm.quantize.source import Source
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.engine.quantize.quantize import Quantizer, TensorPlan

# Every type that all of llama.cpp's back ends compute with and that is no experiment; the float
# types beside them come from the source.
TYPES = (
    "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "q2_k", "iq3_xxs", "iq3_s", "q3_k", "iq4_xs",
    "iq4_nl", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0",
)  # fmt: skip
# No file calls itself one of these, and none is compared with: the floats, the ternary ones, and
# what is made for one family of models.
_SPECIAL = ("F32", "F16", "BF16", "COPY", "MXFP4_MOE", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0")
# Larger than a better K preset: no fair measure.
_NO_RIVALS = (*_SPECIAL, "Q4_0", "Q4_1", "Q5_0", "Q5_1")


@dataclass(frozen=True, eq=False)
class Ground:
    """`free` tensors may get any type, the rest stays: `pinned` are those of it that lose
    something by what was said on the command line. `kept_bytes` is of all but the free."""

    request: Request
    free: tuple[str, ...]
    pinned: Mapping[str, str]
    kept_bytes: int
    tensors: Mapping[str, TensorPlan]
    n_params: int

    def with_types(self, types: Mapping[str, str]) -> Request:
        """The request for the free tensors in `types`; the rest as in the ground."""
        planned = {**self.pinned, **{name: types[name].lower() for name in self.free}}
        recipe = replace(
            self.request.recipe,
            type=preset_name(planned, self.tensors),
            tensor_types=patterns_of(planned),
            output_tensor_type=None,
            token_embedding_type=None,
        )
        return replace(self.request, recipe=recipe.checked(), planned=planned)


@dataclass(frozen=True, eq=False)
class Preset:
    """What llama.cpp's own recipe makes of the same source, pins and importance."""

    name: str
    request: Request
    plan: Plan

    @property
    def types(self) -> dict[str, str]:
        return {t.name: t.to_type.lower() for t in self.plan.tensors}


def ground_of(source: Source, request: Request, quantizer: Quantizer) -> Ground:
    """Which tensors a type can be chosen for, by llama.cpp's own word: those that two pure
    recipes give different types. Raises what `make_plan` raises, and UsageProblem where no
    tensor is left to choose for."""
    plans = []
    for base in ("Q8_0", "Q4_0"):
        pure = replace(request.recipe, type=base, pure=True).checked()
        plans.append(make_plan(source, replace(request, recipe=pure), quantizer))
    eight, four = ({t.name: t for t in plan.tensors} for plan in plans)
    free = tuple(n for n, t in eight.items() if t.to_type != four[n].to_type)
    if not free:
        raise UsageProblem(f"{source.model.name} has no tensor whose type can be chosen")
    kept = [t for n, t in eight.items() if n not in set(free)]
    return Ground(
        request=request,
        free=free,
        pinned={t.name: t.to_type.lower() for t in kept if t.to_type != t.from_type},
        kept_bytes=sum(t.after_bytes for t in kept),
        tensors=eight,
        n_params=plans[0].n_params,
    )


def types_for(source: Source, names: Sequence[str]) -> tuple[str, ...]:
    """The types to look at: all lossy ones, and what the source's weights are stored in."""
    floats = {source.gguf.tensors[name].type.name.lower() for name in names}
    floats = {"f16"} if not floats <= {*FLOATS} else floats
    return (*TYPES, *(("f16",) if "f32" in floats else ()), *sorted(floats - {"f64"}))


def presets_of(
    source: Source, ground: Ground, quantizer: Quantizer, progress: Progress
) -> tuple[Preset, ...]:
    """Every preset that can be made, with the exact size of its file, the largest first."""
    found = []
    wanted = [one for one in FTYPES if one.name not in _NO_RIVALS]
    with progress.steps("sizes of presets", len(wanted)) as advance:
        for one in wanted:
            recipe = replace(ground.request.recipe, type=one.name).checked()
            request = replace(ground.request, recipe=recipe, search=None)
            try:
                plan = make_plan(source, request, quantizer)
                found.append(Preset(one.name, request, priced(plan, source, request, progress)))
            except UsageProblem:  # it needs an importance matrix, and there is none
                pass
            advance(1)
    return tuple(sorted(found, key=lambda p: -p.plan.size_bytes))


def preset_name(types: Mapping[str, str], tensors: Mapping[str, TensorPlan]) -> str:
    """What a file of these types calls itself (general.file_type): the preset whose own type
    holds most of the weights."""
    weights: dict[str, int] = {}
    for name, kind in types.items():
        shape, n = tensors[name].shape, 1
        for length in shape:
            n *= length
        weights[kind] = weights.get(kind, 0) + n
    for kind in sorted(weights, key=lambda k: -weights[k]):
        if kind in FLOATS:
            continue
        for one in FTYPES:
            if one.base.lower() == kind and one.name not in _SPECIAL:
                return one.name
    return "Q8_0"
