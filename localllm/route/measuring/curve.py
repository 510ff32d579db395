"""The cost-quality curve of a router, and APGR and CPT, as RouteLLM defines them.

Ong et al. 2024, "RouteLLM: Learning to Route LLMs with Preference Data", section 3: with the
share c of prompts that go to the strong model, the performance gap recovered is
PGR(c) = (quality(c) - quality of weak) / (quality of strong - quality of weak); APGR is its
mean over c from 0 to 1, and CPT(x) the smallest c with PGR(c) >= x.

Their code reads the curve at ten thresholds. Here it is exact: one point a prompt, and prompts
with the same score are taken in every order at once, at expectation. So a router that cannot
tell prompts apart has APGR 0.5, whatever their order in the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.route.contrast import Floats


@dataclass(frozen=True)
class Ranking:
    """Prompts in groups of equal score, the group that needs the strong model most first."""

    group: np.ndarray  # int [n]: each prompt's group
    n_groups: int

    @classmethod
    def of(cls, scores: Floats) -> Ranking:
        if not np.isfinite(scores).all():
            raise UsageProblem("a score is not a finite number")
        values, inverse = np.unique(-scores, return_inverse=True)
        return cls(inverse.reshape(-1), len(values))


@dataclass(frozen=True)
class Curve:
    """Straight lines between these points; the first is all weak, the last all strong."""

    strong_share: Floats
    quality: Floats

    @property
    def quality_weak(self) -> float:
        return float(self.quality[0])

    @property
    def quality_strong(self) -> float:
        return float(self.quality[-1])

    def recovered(self) -> Floats:
        """PGR at every point. Raises UsageProblem where the strong model is no better."""
        gap = self.quality_strong - self.quality_weak
        if gap <= 1e-12:
            raise UsageProblem(
                "the strong model is no better than the weak one on these prompts: "
                "there is no gap to recover"
            )
        return (self.quality - self.quality_weak) / gap

    def apgr(self) -> float:
        """The mean of PGR over the share of strong calls, exact for these straight lines."""
        recovered = self.recovered()
        return float(np.sum(np.diff(self.strong_share) * (recovered[1:] + recovered[:-1]) / 2))

    def cpt(self, part: float) -> float:
        """The smallest share of strong calls that recovers `part` of the gap: 0.5 for CPT(50 %)."""
        recovered = self.recovered()
        reached = np.flatnonzero(recovered >= part - 1e-12)
        i = int(reached[0])  # the last point recovers 1
        if i == 0:
            return 0.0
        rise = float(recovered[i] - recovered[i - 1])
        along = (part - float(recovered[i - 1])) / rise
        shares = self.strong_share
        return float(shares[i - 1] + min(max(along, 0.0), 1.0) * (shares[i] - shares[i - 1]))

    def quality_at(self, strong_share: float) -> float:
        return float(np.interp(strong_share, self.strong_share, self.quality))


def curve(scores: Floats, weak: Floats, strong: Floats) -> Curve:
    """`scores` [n], larger where the strong model is needed more; the qualities [n]."""
    return counted_curve(Ranking.of(scores), weak, strong, np.ones(len(scores)))


def counted_curve(ranking: Ranking, weak: Floats, strong: Floats, counts: Floats) -> Curve:
    """The curve of prompts that each occur `counts` times (a bootstrap sample)."""
    if not len(counts):
        raise UsageProblem("there are no prompts to measure on")
    group, n_groups = ranking.group, ranking.n_groups
    n = float(counts.sum())
    sizes = np.bincount(group, weights=counts, minlength=n_groups)
    gains = np.bincount(group, weights=counts * (strong - weak), minlength=n_groups)
    share = np.concatenate([[0.0], np.cumsum(sizes)]) / n
    start = float(counts @ weak) / n
    return Curve(share, start + np.concatenate([[0.0], np.cumsum(gains)]) / n)


def within_folds(scores: Floats, folds: np.ndarray) -> Floats:
    """Each score's place among those of its own fold, from 0 to 1 (ties at their middle).

    Scores of models trained on different parts must not be ranked together: a part whose prompts
    need the strong model more often leaves fewer such for the training of its model, which then
    scores that very part lower. Pooled so, a predictor without any skill falls under 0.5.
    """
    placed = np.zeros(len(scores))
    for fold in np.unique(folds):
        inside = np.flatnonzero(folds == fold)
        values, inverse, sizes = np.unique(scores[inside], return_inverse=True, return_counts=True)
        middle = np.cumsum(sizes) - sizes / 2
        placed[inside] = middle[inverse.reshape(-1)] / len(inside)
        del values
    return placed


def auc(scores: Floats, positive: Floats) -> float:
    """The area under the ROC curve: how often a positive (1, else 0) scores above a negative, ties
    counting half. NaN where there are only positives, or none."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    place = (np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)]
    n_positive = float(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    above = float(place[positive > 0.5].sum()) - n_positive * (n_positive + 1) / 2
    return above / (n_positive * n_negative)
