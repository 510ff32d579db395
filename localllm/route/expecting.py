"""What a threshold brings on held-out prompts, and which one reaches a target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.route.contrast import Floats
from localllm.route.measuring.intervals import LEVEL, Figure
from localllm.route.router import threshold_for_share
from localllm.route.text.sparse import Ints

_RESAMPLES = 2000


@dataclass(frozen=True)
class Target:
    """One of the three. `quality` is the part of the gap between the members that is recovered;
    `budget` the mean cost of a prompt in the router's unit."""

    strong_share: float | None = None
    quality: float | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.strong_share, self.quality, self.budget) if v is not None]
        if len(given) != 1:
            raise UsageProblem(
                "a threshold is set for one thing",
                "--strong-share 30%, --quality 95% or --budget 0.01",
            )
        if self.budget is None and not 0 <= given[0] <= 1:
            raise UsageProblem(f"a share is from 0 to 100 %, not {given[0]:g}")
        if not (math.isfinite(given[0]) and given[0] >= 0):
            raise UsageProblem(f"a budget is a number from 0 on, not {given[0]:g}")


@dataclass(frozen=True)
class Sample:
    """Held-out prompts: the probability each has, the qualities of both members' answers, and
    what each costs (NaN where that is not known)."""

    probability: Floats
    weak: Floats
    strong: Floats
    cost_weak: Floats
    cost_strong: Floats

    def __len__(self) -> int:
        return len(self.probability)


@dataclass(frozen=True)
class Expected:
    """What a threshold brings on held-out prompts, with 95 % intervals."""

    threshold: float
    n_prompts: int
    strong_share: Figure
    quality: Figure
    recovered: Figure | None  # None where the strong member is no better
    cost: Figure | None
    quality_weak: float
    quality_strong: float
    cost_weak: float | None
    cost_strong: float | None


def choose_threshold(sample: Sample, target: Target) -> float:
    """Raises UsageProblem for what no threshold reaches."""
    if target.strong_share is not None:
        return threshold_for_share(sample.probability, target.strong_share).probability
    values = np.unique(sample.probability)
    highest = min(1.0, float(np.nextafter(values[-1], 2)))
    candidates = np.unique(np.concatenate([values, [highest]]))
    order = np.argsort(sample.probability, kind="stable")
    start = np.searchsorted(sample.probability[order], candidates)
    quality = _mean_from(sample.weak, sample.strong, order, start)
    if target.quality is not None:
        gap = float(sample.strong.mean() - sample.weak.mean())
        if gap <= 0:
            raise UsageProblem(
                "the strong member is no better on these prompts: there is no gap to recover",
                "always use the weak one",
            )
        wanted = float(sample.weak.mean()) + target.quality * gap
        # the highest threshold (the fewest strong calls) that reaches it
        return float(candidates[np.flatnonzero(quality >= wanted - 1e-12)[-1]])
    cost = _mean_from(sample.cost_weak, sample.cost_strong, order, start)
    if not np.isfinite(cost).all():
        raise UsageProblem(
            "a budget needs the costs of both members",
            "--cost NAME=IN/OUT when it is created, or localllm bench for seconds and joules",
        )
    assert target.budget is not None
    allowed = np.flatnonzero(cost <= target.budget + 1e-15)
    if not len(allowed):
        raise UsageProblem(
            f"a budget of {target.budget:g} a prompt is less than the {cost.min():.4g} of the "
            "cheaper member"
        )
    return float(candidates[allowed[int(np.argmax(quality[allowed]))]])


def expect(sample: Sample, threshold: float, seed: int = 0) -> Expected:
    """Percentile bootstrap over prompts; the threshold stays as it is."""
    goes = sample.probability >= threshold
    quality = np.where(goes, sample.strong, sample.weak)
    cost = np.where(goes, sample.cost_strong, sample.cost_weak)
    known = bool(np.isfinite(sample.cost_weak).all() and np.isfinite(sample.cost_strong).all())
    columns = np.stack([goes.astype(float), quality, sample.weak, sample.strong,
                        np.where(np.isfinite(cost), cost, 0.0)])  # fmt: skip
    means = _drawn_means(columns, seed)
    gap = means[:, 3] - means[:, 2]
    gap_here = float(sample.strong.mean() - sample.weak.mean())
    recovered: Figure | None = None
    if gap_here > 1e-9 and np.mean(gap > 1e-9) > 0.5:
        sound = gap > 1e-9
        drawn = (means[sound, 1] - means[sound, 2]) / gap[sound]
        recovered = _figure(float((quality - sample.weak).mean()) / gap_here, drawn)
    return Expected(
        threshold, len(sample), _figure(float(goes.mean()), means[:, 0]),
        _figure(float(quality.mean()), means[:, 1]), recovered,
        _figure(float(cost.mean()), means[:, 4]) if known else None,
        float(sample.weak.mean()), float(sample.strong.mean()),
        float(sample.cost_weak.mean()) if known else None,
        float(sample.cost_strong.mean()) if known else None,
    )  # fmt: skip


def _mean_from(weak: Floats, strong: Floats, order: Ints, start: np.ndarray) -> Floats:
    """The mean where the prompts from place `start` on (by probability) go to the strong one."""
    gains = np.concatenate([[0.0], np.cumsum((strong - weak)[order][::-1])])
    return np.asarray(float(weak.mean()) + gains[len(weak) - start] / len(weak))


def _drawn_means(columns: Floats, seed: int) -> Floats:
    """Means of every row of `columns` [k, n] over resampled prompts: [resamples, k]."""
    random = np.random.default_rng(seed)
    n = columns.shape[1]
    counts = (np.bincount(random.integers(0, n, n), minlength=n) for _ in range(_RESAMPLES))
    return np.asarray(np.array([columns @ drawn for drawn in counts]) / n)


def _figure(value: float, drawn: Floats) -> Figure:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Figure(value, float(low), float(high))
