"""The type of every tensor for which a model of a given size loses least.

Damage is modelled as a sum over tensors: the weighted relative error of the type (`sensitivity`)
times how much the model's answers suffer from error in tensors of that group. The latter is
measured: all tensors of a group are quantized at once and the divergence from the original is
divided by their summed errors. Divergences of groups add up well enough for choosing; what was
chosen is then measured itself, against the preset, on text that decides nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.quantize.search.allocate import Allocation, Item, Option, allocate
from localllm.quantize.search.groups import group_by_tensor, grouped, kind_of
from localllm.quantize.search.sensitivity import Damage

if TYPE_CHECKING:
    from localllm.quantize.search.trial import Trial

Measure = Callable[[Mapping[str, str]], float]  # mean KL divergence, nats a token

# attn_k is worse below three bits than its error says (0.4 nats in the IQ3_XXS preset).
_LEAST_BITS: Mapping[str, float] = {"attn_k": 3.0}


@dataclass(frozen=True)
class GroupDamage:
    """One group: what quantizing all of it to `probe` cost, and per unit of summed error."""

    group: str
    n_tensors: int
    probe: str
    error: float  # sum of the tensors' weighted relative errors at `probe`
    kld: float | None  # None: not measured
    scale: float  # nats per unit of error


@dataclass(frozen=True)
class Found:
    """`types` by tensor, the sum of their sizes, the damage the model predicts (nats if
    measured, else in units of error), and the least that any choice could have."""

    types: Mapping[str, str]
    size_bytes: int
    predicted: float
    bound: float
    groups: tuple[GroupDamage, ...]
    measured: bool
    runs: int
    took_s: float


def choose(
    damages: Mapping[str, Sequence[Damage]],
    n_layers: int,
    budget_bytes: int,
    *,
    pinned: Mapping[str, str] | None = None,
    measure: Measure | None = None,
    probe_bits: float = 3.5,
    budget_s: float = float("inf"),
    advance: Callable[[str], None] = lambda group: None,
) -> Found:
    """Choose within `budget_bytes` for all tensors of `damages`, those `pinned` staying as said.

    With `measure` each group's scale is measured, for at most `budget_s` (groups that it has no
    room for take the scale of their kind, else the median); without, all scales are 1. Raises
    DoesNotFit where the smallest types exceed the budget.
    """
    begun = time.monotonic()
    allowed = {name: _allowed(name, options, pinned or {}) for name, options in damages.items()}
    groups = grouped(allowed, n_layers)
    probes = _probed(groups, allowed, measure, probe_bits, begun + budget_s, advance)
    scale = {probe.group: probe.scale for probe in probes}
    of = group_by_tensor(groups)
    items = [
        Item(name, tuple(Option(d.type, d.size_bytes, d.error * scale[of[name]]) for d in options))
        for name, options in allowed.items()
    ]
    found: Allocation = allocate(items, budget_bytes)
    return Found(
        types=found.types,
        size_bytes=found.size_bytes,
        predicted=found.damage,
        bound=found.bound,
        groups=probes,
        measured=measure is not None,
        runs=sum(p.kld is not None for p in probes),
        took_s=time.monotonic() - begun,
    )


def _allowed(name: str, options: Sequence[Damage], pinned: Mapping[str, str]) -> tuple[Damage, ...]:
    if name in pinned:
        return tuple(d for d in options if d.type == pinned[name].lower())
    least = _LEAST_BITS.get(kind_of(name), 0.0)
    wide = [d for d in options if _bits(d, options) >= least]
    return tuple(wide or options)


def _bits(damage: Damage, options: Sequence[Damage]) -> float:
    """Bits a weight, from the sizes of the options of one tensor."""
    from localllm.engine.ggml_types import row_type

    kind = row_type(damage.type)
    return kind.block_bytes * 8 / kind.block_elements


def _probed(
    groups: Mapping[str, Sequence[str]],
    damages: Mapping[str, Sequence[Damage]],
    measure: Measure | None,
    probe_bits: float,
    until: float,
    advance: Callable[[str], None],
) -> tuple[GroupDamage, ...]:
    """The largest groups first: where time ends, the rest matters least."""
    order = sorted(groups, key=lambda g: -sum(damages[n][0].size_bytes for n in groups[g]))
    found: dict[str, GroupDamage] = {}
    for group in order:
        probe = {name: _near(damages[name], probe_bits) for name in groups[group]}
        error = sum(d.error for d in probe.values())
        kld = None
        if measure is not None and error > 0 and time.monotonic() < until:
            advance(group)
            kld = measure({name: d.type for name, d in probe.items()})
        names = "/".join(sorted({d.type for d in probe.values()}))
        scale = 1.0 if kld is None else max(kld, 0.0) / error
        found[group] = GroupDamage(group, len(probe), names, error, kld, scale)
    return tuple(_with_scale(found[group], tuple(found.values())) for group in groups)


def _near(options: Sequence[Damage], bits: float) -> Damage:
    return min(options, key=lambda d: (abs(_bits(d, options) - bits), d.error))


def _with_scale(probe: GroupDamage, all_probes: Sequence[GroupDamage]) -> GroupDamage:
    """A group that was not measured takes the mean scale of its kind, else the median of all."""
    import statistics
    from dataclasses import replace

    measured = [p for p in all_probes if p.kld is not None]
    if probe.kld is not None or not measured:
        return probe
    kind = probe.group.partition("/")[0]
    alike = [p.scale for p in measured if p.group.partition("/")[0] == kind]
    scale = statistics.fmean(alike) if alike else statistics.median(p.scale for p in measured)
    return replace(probe, scale=scale)


def measured_by(trial: Trial) -> Measure:
    """The mean divergence on a trial's contexts."""
    return lambda types: trial.measure(types).mean.value
