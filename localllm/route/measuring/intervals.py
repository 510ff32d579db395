"""How sure a figure is: bootstrap over prompts, and differences on the same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.route.contrast import Floats
from localllm.route.measuring.curve import Curve, Ranking, counted_curve, curve

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One router less another on the same prompts; `p_value` is two-sided."""

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Measured:
    """A router's figures on one set of prompts."""

    n_prompts: int
    quality_weak: float
    quality_strong: float
    apgr: Figure
    cpt50: Figure
    cpt80: Figure
    against: Mapping[str, Difference]  # APGR less that of the baseline of this name
    curve: Curve


def measure(
    scores: Floats,
    weak: Floats,
    strong: Floats,
    baselines: Mapping[str, Floats] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Measured:
    """APGR, CPT(50 %) and CPT(80 %) with percentile intervals over resampled prompts.

    `baselines` are other scores of the same prompts; each difference is taken within a resample,
    so what both share (a lucky set of prompts) cancels. The seed is fixed: the same data give
    the same interval. Resamples in which the strong model is no better have no such figures and
    are left out; UsageProblem if those are more than half.
    """
    whole = curve(scores, weak, strong)
    ranking = Ranking.of(scores)
    others = {name: Ranking.of(other) for name, other in (baselines or {}).items()}
    values: list[tuple[float, float, float]] = []
    differences: dict[str, list[float]] = {name: [] for name in others}
    for counts in _resampled(len(scores), resamples, seed):
        drawn = counted_curve(ranking, weak, strong, counts)
        if drawn.quality_strong - drawn.quality_weak <= 1e-9:
            continue
        values.append((drawn.apgr(), drawn.cpt(0.5), drawn.cpt(0.8)))
        for name, other in others.items():
            there = counted_curve(other, weak, strong, counts)
            differences[name].append(values[-1][0] - there.apgr())
    if len(values) < resamples / 2:
        raise UsageProblem("the strong model is not surely better on these prompts: no figures")
    drawn_values = np.array(values)
    exact = (whole.apgr(), whole.cpt(0.5), whole.cpt(0.8))
    apgr, cpt50, cpt80 = (Figure(exact[i], *_middle(drawn_values[:, i])) for i in range(3))
    return Measured(
        len(scores),
        whole.quality_weak,
        whole.quality_strong,
        apgr,
        cpt50,
        cpt80,
        against={
            name: _difference(
                exact[0] - curve((baselines or {})[name], weak, strong).apgr(), np.array(drawn)
            )
            for name, drawn in differences.items()
        },
        curve=whole,
    )


def _resampled(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)


def _middle(values: Floats) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _difference(value: float, drawn: Floats) -> Difference:
    # one is added to both sides: no finite number of resamples shows a probability of 0
    below = (np.sum(drawn <= 0) + 1) / (len(drawn) + 1)
    above = (np.sum(drawn >= 0) + 1) / (len(drawn) + 1)
    return Difference(value, *_middle(drawn), p_value=float(min(1.0, 2 * min(below, above))))
