"""From scores to probabilities, and how far those can be believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from localllm.route.contrast import Floats

_STEPS = 50
_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """P(the strong model is needed) = 1 / (1 + exp(-(slope x score + intercept))).

    `slope` is never negative, so probabilities order prompts as scores do; it is 0 for a
    predictor that showed no skill, and then every prompt gets the same probability.
    """

    slope: float
    intercept: float

    def probability(self, scores: Floats) -> Floats:
        return np.asarray(_logistic(self.slope * scores + self.intercept))


def calibrate(scores: Floats, needed: Floats) -> Calibration:
    """Platt's fit, on scores of prompts that did not train the predictor.

    `needed` [n]: 1 where only the strong model's answer is good, else 0. The targets are
    smoothed as in Platt 1999, so data that separate perfectly still give finite numbers.
    """
    positive = float(needed.sum())
    negative = len(needed) - positive
    high, low = (positive + 1) / (positive + 2), 1 / (negative + 2)
    target = np.where(needed > 0.5, high, low)
    scale = float(scores.std())
    if scale < 1e-12:
        return Calibration(0.0, _logit((positive + 1) / (len(needed) + 2)))
    centre = float(scores.mean())
    design = np.stack([(scores - centre) / scale, np.ones(len(scores))], axis=1)
    slope, intercept = (float(weight) for weight in fit_logistic(design, target, np.zeros(2)))
    if slope <= 0:
        return Calibration(0.0, _logit((positive + 1) / (len(needed) + 2)))
    return Calibration(slope / scale, intercept - slope * centre / scale)


@dataclass(frozen=True)
class Reliability:
    """Prompts by predicted probability, lowest first: what was predicted, and what was so."""

    n: tuple[int, ...]
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    error: float  # expected calibration error: mean |predicted - observed|, weighted by n
    brier: float  # mean squared error of the probabilities
    brier_constant: float  # that of the overall share as every prompt's probability


def reliability(probability: Floats, needed: Floats, bins: int = _BINS) -> Reliability:
    """In bins of equally many prompts, so that each says as much as the others."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    n = tuple(len(part) for part in parts)
    predicted = tuple(float(probability[part].mean()) for part in parts)
    observed = tuple(float(needed[part].mean()) for part in parts)
    apart = sum(k * abs(p - o) for k, p, o in zip(n, predicted, observed, strict=True))
    return Reliability(
        n,
        predicted,
        observed,
        apart / max(sum(n), 1),
        float(np.mean((probability - needed) ** 2)),
        float(np.var(needed)),
    )


def fit_logistic(design: Floats, target: Floats, penalty: Floats) -> Floats:
    """The weights [k] of least penalized log loss, by Newton's method: `penalty` [k] is half of
    what a weight's square costs, `target` [n] is 0 to 1."""
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        p = _logistic(design @ weights)
        gradient = design.T @ (p - target) + penalty * weights
        curvature = design.T @ (design * (p * (1 - p))[:, None]) + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        size = float(np.abs(step).max())
        weights = weights - step * min(1.0, 2.0 / size) if size else weights
        if size < 1e-10:
            break
    return weights


def _logistic(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -500, 500))))


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))
