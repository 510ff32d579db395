"""Predictors by name, and a trained, calibrated router from a contrast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.route.contrast import MIN_PROMPTS, Contrast, merged
from localllm.route.measuring.baselines import baselines
from localllm.route.measuring.calibration import Calibration, Reliability, calibrate, reliability
from localllm.route.measuring.crossval import HeldOut, Train, cross_validate
from localllm.route.measuring.intervals import RESAMPLES, Measured, measure
from localllm.route.predictors.factors import train_factors_of_contrast
from localllm.route.predictors.lexical import train_lexical
from localllm.route.predictors.similarity import train_bradley_terry, train_neighbours
from localllm.route.router import Router
from localllm.route.text.cues import read
from localllm.route.text.languages import language, script_named

# Those that need no embedding model. With one: predictors.embedded.trainer(embedder)
TRAINERS: dict[str, Train] = {
    "lexical": train_lexical,
    "neighbours": train_neighbours,
    "bradley-terry": train_bradley_terry,
    "factors": train_factors_of_contrast,
}
DEFAULT = "lexical"


@dataclass(frozen=True)
class Trained:
    """A router, and what cross-validation says of it. No figure here is on its own data."""

    router: Router
    held_out: HeldOut
    reliability: Reliability
    n_prompts: int
    n_repeated: int  # prompts that stood there more than once
    n_contradicting: int  # of those, how many with labels that differ


def trainer(kind: str) -> Train:
    if kind not in TRAINERS:
        raise UsageProblem(
            f"no predictor is called {kind!r}", f"choose one of {', '.join(TRAINERS)}"
        )
    return TRAINERS[kind]


def train_router(
    contrast: Contrast, weak: str, strong: str, train: Train = train_lexical, *, seed: int = 0
) -> Trained:
    """Trains on all prompts, and five times on four fifths of them for the calibration.

    Raises UsageProblem for too few prompts, or outcomes that are all the same.
    """
    contrast.check_trainable()
    once, differ = merged(contrast)
    once.check_trainable()
    predictor = train(once)
    held_out = cross_validate(once, train, seed=seed)
    needed = (once.gap > 0).astype(np.float64)
    calibration = calibrate(held_out.scores, needed)
    return Trained(
        Router(weak, strong, predictor, calibration, len(once)),
        held_out,
        cross_fitted_reliability(held_out, needed),
        len(once),
        len(contrast) - len(once),
        differ,
    )


def cross_fitted_reliability(held_out: HeldOut, needed: np.ndarray) -> Reliability:
    """The calibration has two numbers fitted on the held-out scores; leave each fold out of it."""
    probability = np.zeros(len(needed))
    for fold in np.unique(held_out.folds):
        out = held_out.folds == fold
        fitted: Calibration = calibrate(held_out.scores[~out], needed[~out])
        probability[out] = fitted.probability(held_out.scores[out])
    return reliability(probability, needed)


def evaluate(
    contrast: Contrast,
    held_out: HeldOut,
    groups: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
) -> dict[str, Measured]:
    """Cross-validated figures apart for every group of prompts: benchmarks unless `groups` names
    one a prompt (`languages`, say). A group without a gap between the models, or with fewer than
    MIN_PROMPTS prompts, has no figures and is left out.

    `contrast` is the one that was cross-validated.
    """
    names = list(groups if groups is not None else contrast.benchmarks)
    found = {}
    for name in sorted(set(names)):
        which = np.array([own == name for own in names])
        part = contrast.take(which)
        if len(part) < MIN_PROMPTS or part.gap.mean() <= 0:
            continue
        found[name] = measure(
            held_out.ranks(which), part.weak, part.strong, baselines(part.prompts),
            resamples=resamples,
        )  # fmt: skip
    return found


def languages(contrast: Contrast) -> list[str]:
    """Of every prompt: "german", "japanese"; its script where no language is clear, or where it is
    that of too few prompts to be measured apart."""
    found = [language(read(prompt).question) for prompt in contrast.prompts]
    counts = Counter(found)
    return [one if counts[one] >= MIN_PROMPTS else script_named(one) for one in found]


def evaluate_on(
    predictor_scores: np.ndarray, contrast: Contrast, *, resamples: int = RESAMPLES
) -> Measured:
    """Figures on prompts that the caller vouches for not having trained the predictor."""
    return measure(
        predictor_scores, contrast.weak, contrast.strong, baselines(contrast.prompts),
        resamples=resamples,
    )  # fmt: skip
