"""What is known of a model's damage: the sum over its tensors, and what is chosen by it.

A tensor's damage is the weighted relative error of its type (`sensitivity`) times how much the
model's answers suffer from error in tensors of its group (`curves`) and of its layer (`layers`),
and what the type's kernel loses by rounding activations (`rounding`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from localllm.quantize.search.allocate import Allocation, Item, Option, allocate, pareto
from localllm.quantize.search.choices import allowed
from localllm.quantize.search.curves import Curves
from localllm.quantize.search.found import GroupDamage
from localllm.quantize.search.groups import PARTS, group_by_tensor, grouped
from localllm.quantize.search.rounding import Rounding
from localllm.quantize.search.sensitivity import Damage

_LARGE = 0.05  # of the budget: what the types of one tensor may differ by
_MOST_LARGE = 3
_REFERENCES = ("q4_0", "q8_0", "f16")  # a type that all tensors of a group can have


class DamageModel:
    """Of the tensors that can be chosen: `damages` has the types that each may get.

    `wise` are those that are not known to be bad; `curves` and `rounding` learn from what is
    measured. Where nothing was, errors decide alone.
    """

    def __init__(
        self, damages: Mapping[str, Sequence[Damage]], n_layers: int, parts: int = PARTS
    ) -> None:
        self.damages = damages
        self.wise = {name: allowed(name, options) for name, options in damages.items()}
        self.groups = grouped(damages, n_layers, parts)
        self.curves = Curves()
        self.rounding = Rounding()
        self.layers: Mapping[str, float] = {}  # by tensor
        self.group_of = group_by_tensor(self.groups)
        self._by_type = {n: {d.type: d for d in ds} for n, ds in damages.items()}
        self._scale = {n: s for g in self.groups.values() for n, s in self._evened(g).items()}

    def allocated(
        self, budget_bytes: int, fixed: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """The best choice by what is known now, with the types `fixed` of some tensors. Raises
        DoesNotFit where the smallest types exceed the budget."""
        return dict(self._allocation(budget_bytes, fixed or {}).types)

    def large(self, budget_bytes: int) -> list[str]:
        """Tensors whose type decides what is left for the others, the largest first."""
        spread = {n: max(d.size_bytes for d in ds) - min(d.size_bytes for d in ds)
                  for n, ds in self.wise.items()}  # fmt: skip
        found = [name for name in spread if spread[name] >= _LARGE * budget_bytes]
        return sorted(found, key=lambda name: -spread[name])[:_MOST_LARGE]

    def beside(self, name: str, kind: str, n: int) -> list[str]:
        """The `n` next smaller and larger types of a tensor, of those that a larger one does
        not beat, the nearest first."""
        front = [option.type for option in pareto(self._options(name))]
        at = front.index(kind) if kind in front else 0
        order = sorted(range(len(front)), key=lambda i: abs(i - at))
        return [front[i] for i in order if 0 < abs(i - at) <= n]

    def has_room(self, budget_bytes: int, fixed: Mapping[str, str]) -> bool:
        """Whether the smallest types of the others fit beside those."""
        return budget_bytes >= sum(
            self._by_type[name][fixed[name]].size_bytes
            if name in fixed
            else min(d.size_bytes for d in options)
            for name, options in self.wise.items()
        )

    def trimmed(self, types: Mapping[str, str], bytes_over: int) -> dict[str, str] | None:
        """One tensor's type changed, so that `bytes_over` are saved for the least damage. None
        where no tensor alone has so many to spare."""
        best: tuple[float, str, str] | None = None
        for name, kind in types.items():
            now = self._by_type[name][kind]
            for other in self.wise[name]:
                if other.size_bytes > now.size_bytes - bytes_over:
                    continue
                more = self._damage(other) - self._damage(now)
                best = min(best or (more, name, other.type), (more, name, other.type))
        return None if best is None else {**types, best[1]: best[2]}

    def bound(self, budget_bytes: int) -> float:
        """A prediction that no choice could be under."""
        return self._allocation(budget_bytes, {}).bound

    def _allocation(self, budget_bytes: int, fixed: Mapping[str, str]) -> Allocation:
        """With the types that are wise; with all, where only those are small enough."""
        least = sum(min(d.size_bytes for d in options) for options in self.wise.values())
        given = self.wise if least <= budget_bytes else self.damages
        items = [Item(name, self._options(name, given, fixed.get(name))) for name in given]
        return allocate(items, budget_bytes)

    def _options(
        self,
        name: str,
        given: Mapping[str, Sequence[Damage]] | None = None,
        fixed: str | None = None,
    ) -> tuple[Option, ...]:
        options = (self.wise if given is None else given)[name]
        return tuple(
            Option(d.type, d.size_bytes, self._damage(d))
            for d in options
            if fixed in (None, d.type)
        )

    def _evened(self, names: Sequence[str]) -> dict[str, float]:
        """What each tensor's errors are multiplied by, so that in one type all tensors of a
        group have the same. The energy of some is that of a few huge activations: their share
        of lost energy is small, and yet their loss was measured to hurt as the others' does."""
        common = set.intersection(*(set(self._by_type[n]) for n in names))
        known = [t for t in _REFERENCES if t in common]
        errors = {n: self._by_type[n][known[0]].error for n in names} if known else {}
        if not errors or min(errors.values()) <= 0:
            return dict.fromkeys(names, 1.0)
        usual = statistics.geometric_mean(errors.values())
        return {n: usual / error for n, error in errors.items()}

    def _error_of(self, damage: Damage) -> float:
        return damage.error * self._scale[damage.tensor] * self.layers.get(damage.tensor, 1.0)

    def _damage(self, damage: Damage) -> float:
        error = self._error_of(damage)
        lost = self.rounding.of(damage.tensor, damage.type)
        group = self.group_of[damage.tensor]
        lost *= self.layers.get(damage.tensor, 1.0)
        return error * self.curves.slope(group, error) + lost

    # --- of a choice ----------------------------------------------------------------------

    def error(self, types: Mapping[str, str]) -> float:
        """Mean over the tensors."""
        found = [self._error_of(self._by_type[n][t]) for n, t in types.items()]
        return sum(found) / max(1, len(found))

    def predicted(self, types: Mapping[str, str]) -> float:
        """The damage of these tensors in these types, nats a token where it was measured."""
        return sum(self._damage(self._by_type[n][t]) for n, t in types.items())

    def by_tensor(self, types: Mapping[str, str]) -> dict[str, float]:
        return {name: self.predicted({name: kind}) for name, kind in types.items()}

    def size_bytes(self, types: Mapping[str, str]) -> int:
        return sum(self._by_type[n][t].size_bytes for n, t in types.items())

    def least_bytes(self, group: str) -> int:
        return sum(min(d.size_bytes for d in self.damages[n]) for n in self.groups[group])

    def explained(self, chosen: Mapping[str, str]) -> tuple[GroupDamage, ...]:
        """The groups of a choice, in the model's order."""
        return tuple(self._explained(g, names, chosen) for g, names in self.groups.items())

    def _explained(
        self, group: str, names: Sequence[str], chosen: Mapping[str, str]
    ) -> GroupDamage:
        types: dict[str, int] = {}
        for name in names:
            types[chosen[name]] = types.get(chosen[name], 0) + 1
        mine = {name: chosen[name] for name in names}
        point = self.curves.nearest(group, self.error(mine))
        return GroupDamage(
            group=group,
            n_tensors=len(names),
            types=types,
            size_bytes=self.size_bytes(mine),
            error=sum(self._by_type[n][t].error for n, t in mine.items()),
            probe=None if point is None else "/".join(sorted(set(point.types.values()))),
            kld=None if point is None else point.kld,
            predicted_kld=self.predicted(mine),
        )
