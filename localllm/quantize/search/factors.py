"""What damages are multiplied by where whole choices showed that they count for more or less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Factors:
    """By group of tensors and by type; 1 of those not named."""

    groups: Mapping[str, float] = field(default_factory=dict)
    types: Mapping[str, float] = field(default_factory=dict)

    def of(self, group: str, type_name: str) -> float:
        return self.groups.get(group, 1.0) * self.types.get(type_name, 1.0)

    def share(self, share: float) -> Factors:
        """That share of their logarithms: 0 changes nothing."""
        return Factors(
            {name: factor**share for name, factor in self.groups.items()},
            {name: factor**share for name, factor in self.types.items()},
        )

    def times(self, other: Factors) -> Factors:
        return Factors(_product(self.groups, other.groups), _product(self.types, other.types))


def _product(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: a.get(name, 1.0) * b.get(name, 1.0) for name in {**a, **b}}


NO_FACTORS = Factors()
