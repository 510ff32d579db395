"""Scores of every prompt by a predictor that never saw it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from localllm.route.contrast import Contrast, Floats
from localllm.route.measuring.curve import within_folds
from localllm.route.predictors.base import Predictor

FOLDS = 5

Train = Callable[[Contrast], Predictor]


@dataclass(frozen=True)
class HeldOut:
    """One score a prompt, from the model of the fold that the prompt was left out of."""

    scores: Floats  # [n]
    folds: np.ndarray  # int [n]

    def ranks(self, which: np.ndarray) -> Floats:
        """What to measure by for the prompts `which` (a mask): places within folds."""
        return within_folds(self.scores[which], self.folds[which])


def cross_validate(
    contrast: Contrast, train: Train, *, folds: int = FOLDS, seed: int = 0
) -> HeldOut:
    """Trains `folds` times. Equal prompts are kept in one fold; see `contrast.merged`."""
    fold = fold_of(contrast, folds, seed)
    scores = np.zeros(len(contrast))
    for i in range(folds):
        out = np.flatnonzero(fold == i)
        part = contrast.take(fold != i)
        if not len(part) or np.ptp(part.gap) == 0:  # the few that differ are all in this fold
            scores[out] = part.gap[0] if len(part) else 0.0
            continue
        scores[out] = train(part).scores([contrast.prompts[k] for k in out])
    return HeldOut(scores, fold)


def fold_of(contrast: Contrast, folds: int, seed: int) -> np.ndarray:
    """A fold for every prompt, int [n]: each benchmark and domain spread evenly over them."""
    random = np.random.default_rng(seed)
    where: dict[tuple[str, str], dict[str, list[int]]] = {}
    for i, prompt in enumerate(contrast.prompts):
        key = (contrast.benchmarks[i], contrast.domains[i])
        where.setdefault(key, {}).setdefault(prompt, []).append(i)
    fold = np.zeros(len(contrast), dtype=np.int64)
    taken: dict[str, int] = {}
    for key in sorted(where):
        prompts = list(where[key])
        start = int(random.integers(folds))
        for place, k in enumerate(random.permutation(len(prompts))):
            prompt = prompts[int(k)]
            # a prompt that stands in two benchmarks stays in the fold that it has
            chosen = taken.setdefault(prompt, (start + place) % folds)
            fold[where[key][prompt]] = chosen
    return fold
