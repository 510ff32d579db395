"""A trained router: two members, a predictor, a calibration. Decides, and says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.route.contrast import Floats
from localllm.route.measuring.calibration import Calibration
from localllm.route.predictors.base import Part, Predictor


@dataclass(frozen=True)
class Decision:
    """`probability` that only the strong member answers well; strong from `threshold` on."""

    member: str
    probability: float
    threshold: float


@dataclass(frozen=True)
class Explanation:
    """`parts` add up to `score`; the probability is logistic(slope x score + intercept)."""

    probability: float
    score: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Threshold:
    """A probability to route by, and the share of prompts that it sends to the strong member."""

    probability: float
    strong_share: float


@dataclass(frozen=True)
class Router:
    weak: str
    strong: str
    predictor: Predictor
    calibration: Calibration
    n_trained: int  # prompts

    def probabilities(self, prompts: Sequence[str]) -> Floats:
        """P(only the strong member answers well), [n]."""
        return self.calibration.probability(self.predictor.scores(prompts))

    def decide(self, prompt: str, threshold: float) -> Decision:
        """The strong member from this probability on. UsageProblem for an empty prompt."""
        if not prompt.strip():
            raise UsageProblem("an empty prompt is not routed")
        if not 0 <= threshold <= 1:
            raise UsageProblem(f"a threshold is a probability from 0 to 1, not {threshold}")
        probability = float(self.probabilities([prompt])[0])
        member = self.strong if probability >= threshold else self.weak
        return Decision(member, probability, threshold)

    def explain(self, prompt: str) -> Explanation:
        parts = self.predictor.parts(prompt)
        score = float(sum(part.amount for part in parts))
        probability = float(self.calibration.probability(np.array([score]))[0])
        return Explanation(probability, score, tuple(parts))


def threshold_for_share(probabilities: Floats, strong_share: float) -> Threshold:
    """The threshold that sends nearest to `strong_share` (0 to 1) of these held-out prompts on.

    Prompts of equal probability go together, so the share that results can differ: it is given.
    """
    if not 0 <= strong_share <= 1:
        raise UsageProblem(f"a share is a number from 0 to 1, not {strong_share}")
    values = np.unique(probabilities)
    candidates = np.concatenate([values, [min(1.0, float(np.nextafter(values[-1], 2)))]])
    shares = np.array([float(np.mean(probabilities >= c)) for c in candidates])
    best = int(np.argmin(np.abs(shares - strong_share)))
    return Threshold(float(candidates[best]), float(shares[best]))
