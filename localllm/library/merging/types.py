"""Which tensor is stored as what, by llama.cpp's own rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.engine.ftypes import FTYPES, Ftype, ftype
from localllm.engine.ggml_types import row_type
from localllm.errors import UsageProblem

if TYPE_CHECKING:
    from localllm.engine.quantize.quantize import Quantizer
    from localllm.formats.gguf import GGUFModel

FLOATS = ("f32", "f16", "bf16")

_WIDER = ("q5_k", "q6_k", "q8_0", "f16")  # for a tensor that would stay on its own grid

# What is tried for a base that is quantized, from few bits to many: the types that people keep
# models in and that need no importance matrix.
LADDER = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "F32")


@dataclass(frozen=True)
class TypePlan:
    """What `recipe` makes of each tensor (ggml's names in small letters)."""

    recipe: Ftype
    types: Mapping[str, str]
    fell_back: tuple[str, ...]  # tensors whose rows the wanted type does not divide
    llama_commit: str


def recipe_named(name: str) -> Ftype:
    """Raises UsageProblem."""
    found = ftype(name)
    if found.copies:
        raise UsageProblem("COPY is no type to merge into", "--type F16")
    return found


def plan_types(path: Path, recipe: Ftype, quantizer: Quantizer, *, weighted: bool) -> TypePlan:
    """Ask llama.cpp what it would store the tensors of the GGUF at `path` as; `weighted`: with an
    importance matrix. Raises UsageProblem where one is needed, EngineError."""
    from localllm.engine.quantize.quantize import ImportanceFile, QuantizeOptions

    options = QuantizeOptions(
        recipe.name,
        allow_requantize=True,
        importance=ImportanceFile(Path(), ()) if weighted else None,
    )
    report = quantizer.plan(path, options)
    if report.needs_imatrix and not weighted:
        raise UsageProblem(
            f"{recipe.name} needs an importance matrix", "--imatrix auto, or --type Q3_K_M"
        )
    return TypePlan(
        recipe,
        {t.name: t.to_type.lower() for t in report.tensors},
        tuple(f.tensor for f in report.fallbacks),
        report.llama_commit,
    )


def stored_types(
    base: GGUFModel, plan: TypePlan, changed: Collection[str], *, keep_others: bool
) -> dict[str, str]:
    """The type of each tensor of the result.

    What is changed gets the plan's type. What is not changed stays as it is where it is
    quantized (quantizing it again could only lose); floats follow the plan where that makes
    them smaller, unless `keep_others`.
    """
    found = {}
    for name, info in base.tensors.items():
        now, planned = info.type.name.lower(), plan.types[name]
        shrinks = now in FLOATS and _bits(planned) < info.type.bits_per_element
        found[name] = planned if name in changed or (shrinks and not keep_others) else now
    return found


def own_type(base: GGUFModel, types: Mapping[str, str], changed: Collection[str]) -> bool:
    """Whether most of what is changed is quantized and would be stored on the same grid again."""
    same = whole = 0
    for name in changed:
        info = base.tensors[name]
        now = info.type.name.lower()
        whole += info.n_elements
        same += info.n_elements if now not in FLOATS and types[name] == now else 0
    return 2 * same > whole


def lifted(base: GGUFModel, types: Mapping[str, str], changed: Collection[str]) -> dict[str, str]:
    """`types` with a wider one for every changed tensor that would lie on its own grid again.

    Recipes mix types: in a Q4_K_M some matrices are stored as Q6_K, and would lose their change
    where the rest goes to Q6_K.
    """
    found = dict(types)
    for name in changed:
        info = base.tensors[name]
        now = info.type.name.lower()
        if now in FLOATS or types[name] != now:
            continue
        for wider in _WIDER:
            kind = row_type(wider)
            more = kind.block_bytes * 8 / kind.block_elements > info.type.bits_per_element
            if more and info.shape[0] % kind.block_elements == 0:
                found[name] = wider
                break
    return found


def wider_than(base: GGUFModel) -> tuple[Ftype, ...]:
    """The rungs of the ladder that hold at least what `base` does, the smallest first."""
    own = base.file_type.name if base.file_type is not None else None
    known = [one.name for one in FTYPES]
    if own in known:
        # FTYPES go from most to fewest bits
        at = known.index(own)
        rungs = [name for name in LADDER if known.index(name) <= at]
    else:
        rungs = list(LADDER)
    return tuple(ftype(name) for name in rungs)


def _bits(type_name: str) -> float:
    kind = row_type(type_name)
    return kind.block_bytes * 8 / kind.block_elements
