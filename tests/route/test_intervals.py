"""Bootstrap intervals: that they hold the truth, and that pairs cancel what both share."""

from __future__ import annotations

import numpy as np
import pytest

from localllm.errors import UsageProblem
from localllm.route.measuring.curve import curve
from localllm.route.measuring.intervals import measure


def _drawn(n: int, seed: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    """(scores, weak qualities): need and score share a normal with correlation `skill`."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=n)
    scores = skill * shared + np.sqrt(1 - skill**2) * random.normal(size=n)
    return scores, (shared < 0.5).astype(float)


def test_intervals_hold_the_figure_of_a_large_sample() -> None:
    big_scores, big_weak = _drawn(200_000, 0, 0.5)
    truth = curve(big_scores, big_weak, np.ones(200_000)).apgr()
    held = 0
    for seed in range(1, 101):
        scores, weak = _drawn(250, seed, 0.5)
        figure = measure(scores, weak, np.ones(250), resamples=200).apgr
        held += figure.low <= truth <= figure.high
    assert 88 <= held <= 100  # 95 expected


def test_the_difference_to_itself_is_nothing_and_to_noise_is_something() -> None:
    scores, weak = _drawn(600, 3, 0.6)
    noise = np.random.default_rng(9).normal(size=600)
    found = measure(scores, weak, np.ones(600), {"self": scores, "noise": noise}, resamples=400)
    itself, other = found.against["self"], found.against["noise"]
    assert (itself.value, itself.low, itself.high, itself.p_value) == (0, 0, 0, 1)
    assert other.low > 0.1 and other.p_value < 0.02
    expected = found.apgr.value - curve(noise, weak, np.ones(600)).apgr()
    assert other.value == pytest.approx(expected)


def test_the_same_data_give_the_same_interval() -> None:
    scores, weak = _drawn(100, 1, 0.4)
    first, second = (measure(scores, weak, np.ones(100), resamples=100) for _ in range(2))
    assert first.apgr == second.apgr and first.cpt80 == second.cpt80


def test_a_strong_model_that_is_no_better_has_no_figures() -> None:
    with pytest.raises(UsageProblem):
        measure(np.arange(10.0), np.ones(10), np.ones(10))
