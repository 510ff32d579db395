"""Where on its curve a router can be run: share of strong calls, quality, cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.route.measuring.curve import Curve


@dataclass(frozen=True)
class Prices:
    """What one prompt costs on average with each member, in one unit of the caller's choice."""

    weak: float
    strong: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.weak, self.strong]).all() and min(self.weak, self.strong) >= 0):
            raise UsageProblem("a price is a number from 0 on")


@dataclass(frozen=True)
class Point:
    """`quality` and `cost` are means over prompts, `recovered` is PGR."""

    strong_share: float
    quality: float
    recovered: float
    cost: float


def point(curve: Curve, strong_share: float, prices: Prices) -> Point:
    """The point where `strong_share` (0 to 1) of the prompts go to the strong member."""
    if not 0 <= strong_share <= 1:
        raise UsageProblem(f"a share is a number from 0 to 1, not {strong_share}")
    quality = curve.quality_at(strong_share)
    gap = curve.quality_strong - curve.quality_weak
    recovered = (quality - curve.quality_weak) / gap if gap > 0 else float("nan")
    cost = prices.weak + strong_share * (prices.strong - prices.weak)
    return Point(strong_share, quality, recovered, cost)


def cheapest_for_quality(curve: Curve, part: float, prices: Prices) -> Point:
    """The smallest share of strong calls that recovers `part` of the gap: 0.95 for 95 %."""
    if not 0 <= part <= 1:
        raise UsageProblem(f"a part of the gap is a number from 0 to 1, not {part}")
    return point(curve, curve.cpt(part), prices)


def best_for_budget(curve: Curve, budget: float, prices: Prices) -> Point:
    """The point of highest quality whose mean cost is at most `budget`.

    On a curve that falls at its end that is before all of the budget is spent. UsageProblem
    where the budget is less than what the cheaper end of the curve costs.
    """
    dearer = prices.strong - prices.weak
    allowed = [share for share in (0.0, 1.0) if prices.weak + share * dearer <= budget]
    if not allowed:
        raise UsageProblem(
            f"a budget of {budget:g} a prompt is less than the {min(prices.weak, prices.strong):g} "
            "of the cheaper model"
        )
    if (dearer > 0 and allowed == [0.0]) or (dearer < 0 and allowed == [1.0]):
        allowed.append((budget - prices.weak) / dearer)
    low, high = min(allowed), max(allowed)
    inside = curve.strong_share[(curve.strong_share >= low) & (curve.strong_share <= high)]
    shares = np.unique(np.concatenate([inside, [low, high]]))
    best = shares[int(np.argmax([curve.quality_at(float(share)) for share in shares]))]
    return point(curve, float(best), prices)
