"""How much a model's answers suffer from error in each group of its tensors.

A point is measured: all tensors of a group quantized at once, the divergence (but for what the
rounding of activations does of it) divided by the sum of their weighted relative errors gives
nats per unit of error. That slope is not the same at
all sizes of error (a few bits fewer can break what small errors leave whole), so a group may
have several points, and between them the slope follows the error's logarithm.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

# A group whose divergence comes out as nothing on a small text has some all the same: it
# counts with this share of what its kind has.
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Point:
    """`kld` nats a token were measured with the group's tensors as in `types`, `rounding` of
    them for what these types' kernels do to activations; `error` is the mean of the weighted
    relative errors."""

    types: Mapping[str, str]
    n_tensors: int
    error: float
    kld: float
    rounding: float = 0.0

    @property
    def slope(self) -> float:
        """Nats per unit of error summed over the tensors."""
        total = self.error * self.n_tensors
        return max(self.kld - self.rounding, 0.0) / total if total > 0 else 0.0


@dataclass
class Curves:
    """Points by group; a group's name begins with its kind (`attn_q/2`)."""

    points: dict[str, list[Point]] = field(default_factory=dict)

    def add(self, group: str, point: Point) -> None:
        known = self.points.setdefault(group, [])
        known[:] = sorted([*(p for p in known if p.types != point.types), point],
                          key=lambda p: p.error)  # fmt: skip

    def round_by(self, rounding: Callable[[Mapping[str, str]], float]) -> None:
        """Take what is now known of rounding, nats by the types of a point, into all points."""
        for group, known in self.points.items():
            self.points[group] = [replace(p, rounding=rounding(p.types)) for p in known]

    def nearest(self, group: str, error: float) -> Point | None:
        """The measured point whose error is nearest, by ratio."""
        known = [p for p in self.points.get(group, ()) if p.error > 0]
        if not known or error <= 0:
            return known[0] if known else None
        return min(known, key=lambda p: abs(math.log(p.error / error)))

    def slope(self, group: str, error: float) -> float:
        """Nats per unit of error of a tensor of this group whose error is `error`. 1 where
        nothing at all was measured, so that damages are the errors themselves."""
        own = self._of_points(self.points.get(group, ()), error)
        usual = self._usual(group, error)
        if usual is None:
            return own or 1.0
        return usual if own is None else max(own, _LEAST_SHARE * usual)

    def _usual(self, group: str, error: float) -> float | None:
        """The median of what groups of the same kind have, else of all."""
        kind = kind_of_group(group)
        alike = {g: p for g, p in self.points.items() if kind_of_group(g) == kind}
        for points in (alike, self.points):
            slopes = [s for p in points.values() if (s := self._of_points(p, error))]
            if slopes:
                return statistics.median(slopes)
        return None

    @staticmethod
    def _of_points(points: list[Point] | tuple[Point, ...], error: float) -> float | None:
        known = [p for p in points if p.error > 0]
        if not known:
            return None
        above = next((i for i, p in enumerate(known) if p.error >= error), len(known))
        if above == 0 or above == len(known):
            return known[min(above, len(known) - 1)].slope
        a, b = known[above - 1], known[above]
        if a.slope <= 0 or b.slope <= 0 or a.error >= b.error:
            return b.slope
        share = math.log(error / a.error) / math.log(b.error / a.error)
        return math.exp((1 - share) * math.log(a.slope) + share * math.log(b.slope))


def kind_of_group(group: str) -> str:
    return group.partition("/")[0]
