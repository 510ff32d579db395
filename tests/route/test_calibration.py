from __future__ import annotations

import numpy as np
import pytest

from localllm.route.measuring.calibration import Calibration, calibrate, reliability


def test_a_known_logistic_is_found_again() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(0.1, 0.2, size=20_000)
    truth = 1 / (1 + np.exp(-(4 * scores - 1)))
    found = calibrate(scores, (random.random(20_000) < truth).astype(float))
    assert found.slope == pytest.approx(4, abs=0.3)
    assert found.intercept == pytest.approx(-1, abs=0.06)


def test_scores_that_point_the_wrong_way_are_not_turned_round() -> None:
    scores = np.linspace(0, 1, 100)
    found = calibrate(scores, (scores < 0.5).astype(float))
    assert found.slope == 0.0
    assert found.probability(scores) == pytest.approx([51 / 102] * 100)


def test_separable_and_constant_scores_give_finite_numbers() -> None:
    scores = np.linspace(0, 1, 100)
    separable = calibrate(scores, (scores > 0.5).astype(float))
    assert np.isfinite([separable.slope, separable.intercept]).all() and separable.slope > 0
    constant = calibrate(np.ones(50), np.array([1.0] * 10 + [0.0] * 40))
    assert constant == Calibration(0.0, pytest.approx(np.log(11 / 41)))


def test_reliability_by_hand() -> None:
    found = reliability(np.array([0.1, 0.1, 0.9, 0.9]), np.array([0.0, 1, 1, 1]), bins=2)
    assert found.n == (2, 2)
    assert found.predicted == pytest.approx((0.1, 0.9))
    assert found.observed == pytest.approx((0.5, 1.0))
    assert found.error == pytest.approx((0.4 + 0.1) / 2)
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    assert found.brier_constant == pytest.approx(0.75 * 0.25)
