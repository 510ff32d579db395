"""The types that a tensor may take: how large they are, and which to measure first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from localllm.engine.ggml_types import row_type
from localllm.quantize.search.groups import kind_of
from localllm.quantize.search.sensitivity import Damage

# attn_k below three bits is worse than its error says (0.4 nats in the IQ3_XXS preset).
_LEAST_BITS: Mapping[str, float] = {"attn_k": 3.0}


def allowed(name: str, options: Sequence[Damage]) -> tuple[Damage, ...]:
    """The types that are wise for a tensor; all, where none is."""
    least = _LEAST_BITS.get(kind_of(name), 0.0)
    return tuple(d for d in options if bits_of(d.type) >= least) or tuple(options)


def bits_of(type_name: str) -> float:
    """Bits a weight."""
    kind = row_type(type_name)
    return kind.block_bytes * 8 / kind.block_elements


def bits_for(damages: Mapping[str, Sequence[Damage]], budget_bytes: int) -> float:
    """The bits a weight that the budget gives all tensors alike."""
    n_weights = sum(d[0].size_bytes * 8 / bits_of(d[0].type) for d in damages.values())
    return budget_bytes * 8 / n_weights if n_weights else 0.0


def near(options: Sequence[Damage], bits: float) -> str:
    """The K type whose bits are nearest, another where rows take none: only the error counts, and
    IQ types take ten times as long to make. Types without error tell nothing."""
    lossy = [d for d in options if d.error > 0] or list(options)
    usual = [d for d in lossy if d.type.endswith("_k")]
    usual = usual or [d for d in lossy if not d.type.startswith("iq")] or lossy
    return min(usual, key=lambda d: (abs(bits_of(d.type) - bits), d.error)).type
