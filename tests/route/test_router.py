from __future__ import annotations

import numpy as np
import pytest

from localllm.errors import UsageProblem
from localllm.route.router import Router, threshold_for_share
from localllm.route.training import train_router, trainer
from tests.route.known import known


@pytest.fixture(scope="module")
def router() -> Router:
    return train_router(known(300), "small", "large").router


def test_a_decision_follows_its_threshold(router: Router) -> None:
    probability = router.decide("theorem proof lemma", 0.0).probability
    assert router.decide("theorem proof lemma", probability).member == "large"
    assert router.decide("theorem proof lemma", min(1.0, probability + 1e-6)).member == "small"


def test_an_explanation_is_the_probability(router: Router) -> None:
    found = router.explain("theorem of 12 cooks, if any")
    assert sum(part.amount for part in found.parts) == pytest.approx(found.score)
    calibration = router.calibration
    logit = calibration.slope * found.score + calibration.intercept
    assert found.probability == pytest.approx(1 / (1 + np.exp(-logit)))
    decided = router.decide("theorem of 12 cooks, if any", 0.5)
    assert found.probability == pytest.approx(decided.probability)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_bad_thresholds_and_empty_prompts_are_refused(router: Router, threshold: float) -> None:
    with pytest.raises(UsageProblem, match="threshold"):
        router.decide("x", threshold)
    with pytest.raises(UsageProblem, match="empty"):
        router.decide(" \n", 0.5)


def test_thresholds_for_a_share() -> None:
    probabilities = np.array([0.1, 0.2, 0.2, 0.2, 0.9])
    assert threshold_for_share(probabilities, 0.2).probability == 0.9
    assert threshold_for_share(probabilities, 1.0).strong_share == 1.0
    nobody = threshold_for_share(probabilities, 0.0)
    assert nobody.strong_share == 0.0 and nobody.probability > 0.9
    assert threshold_for_share(probabilities, 0.6).strong_share == 0.8  # three go together
    with pytest.raises(UsageProblem):
        threshold_for_share(probabilities, 1.2)


def test_an_unknown_predictor_names_those_that_are() -> None:
    with pytest.raises(UsageProblem) as caught:
        trainer("bert")
    assert "lexical" in (caught.value.hint or "")
