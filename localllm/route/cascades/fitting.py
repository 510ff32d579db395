"""The weights of a cascade's signals, fitted: a small logistic regression, calibrated.

    P(the weak answer is good) = logistic(intercept + sum of weight x (signal - 0.7))

Ridge-penalized on standardized signals, then Platt's two numbers on cross-validated scores, folded
into the same weights: with few answers a weak signal counts for less by both. The penalty is fixed:
one chosen anew in every fold would put the folds' scores on scales of their own.
So what is in use is of the
form that the hand-set weights have, and a threshold is a probability. Every figure is on rows that
did not fit what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.route.cascades.rows import Signalled
from localllm.route.contrast import MIN_PROMPTS, Floats
from localllm.route.measuring.calibration import (
    Calibration,
    Reliability,
    calibrate,
    fit_logistic,
    reliability,
)
from localllm.route.measuring.crossval import FOLDS, HeldOut, fold_of
from localllm.route.measuring.curve import auc
from localllm.route.pool.steps import CENTRE, Combiner
from localllm.route.training import cross_fitted_reliability

_PENALTY = 1.0  # against signals of deviation 1: a normal prior of that deviation on each weight
_LEAST_SPREAD = 2e-3  # of a signal: one that is always the same says nothing
_MIN_EACH = 5  # good answers, and bad ones
GOOD = 0.5  # from this quality on an answer is good


@dataclass(frozen=True)
class FittedCombiner:
    """`held_out` has for every row the logit of P(strong is needed) by a fit that did not see it.
    `auc` is how well those tell good answers from bad ones (0.5: not at all), `by_hand` that of
    the hand-set weights on the same rows; `reliability_by_hand` are their probabilities."""

    combiner: Combiner
    means: dict[str, float]  # of each signal
    held_out: HeldOut
    auc: float
    auc_by_hand: float
    reliability: Reliability
    reliability_by_hand: Reliability


def fit_combiner(rows: Signalled, seed: int = 0) -> FittedCombiner:
    """Raises UsageProblem for too few rows, or answers that are all good or all bad."""
    good = (rows.contrast.weak >= GOOD).astype(np.float64)
    _check(rows, good)
    names = tuple(rows.signals)
    design = np.stack([rows.signals[name] for name in names], axis=1)
    folds = fold_of(rows.contrast, FOLDS, seed)
    raw = np.zeros(len(rows))
    for fold in range(FOLDS):
        out = folds == fold
        weights = _fitted(design[~out], good[~out])
        raw[out] = _scores(design[out], weights)
    calibration = calibrate(raw, good)
    combiner = _combiner(names, _fitted(design, good), calibration)
    hand = Combiner()
    by_hand = _scores(design, _of(hand, names))
    return FittedCombiner(
        combiner,
        {name: float(values.mean()) for name, values in rows.signals.items()},
        HeldOut(-(calibration.slope * raw + calibration.intercept), folds),
        _pooled_auc(raw, folds, good), auc(by_hand, good),
        cross_fitted_reliability(HeldOut(raw, folds), good),
        reliability(Calibration(1.0, 0.0).probability(by_hand), good),
    )  # fmt: skip


def needed_logit(rows: Signalled, combiner: Combiner) -> Floats:
    """The logit of P(strong is needed) of every row, by these weights."""
    names = tuple(rows.signals)
    design = np.stack([rows.signals[name] for name in names], axis=1)
    return -_scores(design, _of(combiner, names))


def _check(rows: Signalled, good: Floats) -> None:
    if len(rows) < MIN_PROMPTS:
        raise UsageProblem(
            f"{len(rows)} judged answers with signals are too few: at least {MIN_PROMPTS}",
            "label more prompts; without it the weights set by hand stay",
        )
    n_good = int(good.sum())
    if min(n_good, len(good) - n_good) < _MIN_EACH:
        raise UsageProblem(
            f"{n_good} of {len(good)} answers of the weak member are good: it takes at least "
            f"{_MIN_EACH} good ones and {_MIN_EACH} bad ones to tell them apart",
            "label other prompts, or use one member alone",
        )


def _fitted(design: Floats, good: Floats) -> Floats:
    """(intercept, weight of each signal) on the signals as they are."""
    spread = design.std(axis=0)
    telling = spread > _LEAST_SPREAD
    mean, scale = design.mean(axis=0), np.where(telling, spread, 1.0)
    inputs = np.where(telling, (design - mean) / scale, 0.0)
    columns = np.hstack([np.ones((len(inputs), 1)), inputs])
    # a little on the intercept too: a fold may hold good answers alone
    weights = fit_logistic(columns, good, np.array([1e-3, *[_PENALTY] * inputs.shape[1]]))
    slopes = np.where(telling, weights[1:] / scale, 0.0)
    return np.concatenate([[weights[0] - float(slopes @ mean)], slopes])


def _scores(design: Floats, weights: Floats) -> Floats:
    return np.asarray(weights[0] + design @ weights[1:])


def _of(combiner: Combiner, names: Sequence[str]) -> Floats:
    weights = [float(getattr(combiner, name)) for name in names]
    return np.array([combiner.intercept - CENTRE * sum(weights), *weights])


def _combiner(names: Sequence[str], weights: Floats, calibration: Calibration) -> Combiner:
    slopes = calibration.slope * weights[1:]
    intercept = calibration.slope * weights[0] + calibration.intercept + CENTRE * slopes.sum()
    unused = dict.fromkeys(("logprobs", "agreement", "p_true"), 0.0)
    found = {name: float(w) for name, w in zip(names, slopes, strict=True)}
    return Combiner(float(intercept), **{**unused, **found})


def _pooled_auc(scores: Floats, folds: np.ndarray, good: Floats) -> float:
    """Places within folds are pooled: scores of different fits are not of one scale."""
    everything = np.ones(len(good), dtype=np.bool_)
    return auc(HeldOut(scores, folds).ranks(everything), good)
