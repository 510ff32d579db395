"""APGR and CPT against what can be worked out by hand, and against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from localllm.errors import UsageProblem
from localllm.route.measuring.curve import curve, within_folds


def test_a_perfect_order_of_four_prompts() -> None:
    # needed by the first two: PGR rises to 1 at half, area 1/2 * 1/2 + 1/2
    found = curve(np.array([4.0, 3, 2, 1]), np.array([0.0, 0, 1, 1]), np.ones(4))
    assert found.apgr() == pytest.approx(0.75)
    assert found.cpt(0.5) == pytest.approx(0.25)
    assert found.cpt(0.8) == pytest.approx(0.4)
    assert (found.quality_weak, found.quality_strong) == (0.5, 1.0)
    assert found.quality_at(0.25) == pytest.approx(0.75)


def test_scores_that_say_nothing_give_one_half_in_any_order() -> None:
    weak = np.array([0.0, 0, 1, 1, 1])
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]):
        found = curve(np.zeros(5), weak[order], np.ones(5))
        assert found.apgr() == pytest.approx(0.5)
        assert found.cpt(0.8) == pytest.approx(0.8)


def test_ties_are_the_mean_over_every_order_of_them() -> None:
    scores = np.array([3.0, 2, 2, 2, 1, 1])
    weak = np.array([1.0, 0, 1, 0, 0, 1])
    strong = np.array([1.0, 1, 0, 1, 1, 1])
    apart = []
    for first in itertools.permutations([1, 2, 3]):
        for last in itertools.permutations([4, 5]):
            order = [0, *first, *last]
            untied = np.empty(6)
            untied[order] = np.arange(6, 0, -1)
            apart.append(curve(untied, weak, strong).apgr())
    assert curve(scores, weak, strong).apgr() == pytest.approx(np.mean(apart))


def test_a_curve_that_falls_is_followed_exactly() -> None:
    # the first prompt is worse with the strong model: PGR goes to -1 before it rises to 1
    found = curve(np.array([3.0, 2, 1]), np.array([1.0, 0, 0]), np.array([0.0, 1, 1]))
    assert found.recovered().tolist() == pytest.approx([0, -1, 0, 1])
    assert found.apgr() == pytest.approx(-1 / 6)
    assert found.cpt(0.5) == pytest.approx(2.5 / 3)


def test_models_that_are_equal_have_no_gap_to_recover() -> None:
    with pytest.raises(UsageProblem, match="no gap"):
        curve(np.array([1.0, 2]), np.ones(2), np.ones(2)).apgr()


def test_no_prompts_and_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UsageProblem, match="no prompts"):
        curve(np.zeros(0), np.zeros(0), np.zeros(0))
    with pytest.raises(UsageProblem, match="finite"):
        curve(np.array([np.nan, 1.0]), np.zeros(2), np.ones(2))


def test_pooling_folds_by_their_means_would_be_below_chance_and_places_are_not() -> None:
    """A predictor without skill: the mean of the other folds."""
    random = np.random.default_rng(5)
    pooled, placed = [], []
    for _ in range(300):
        needed = (random.random(40) < 0.4).astype(float)
        folds = np.arange(40) % 4
        scores = np.array([needed[folds != fold].mean() for fold in folds])
        pooled.append(curve(scores, 1 - needed, np.ones(40)).apgr())
        placed.append(curve(within_folds(scores, folds), 1 - needed, np.ones(40)).apgr())
    assert np.mean(pooled) < 0.47
    assert placed == pytest.approx([0.5] * 300)


def test_places_within_a_fold_keep_its_order_and_its_ties() -> None:
    places = within_folds(np.array([5.0, 1, 1, 100, 200]), np.array([0, 0, 0, 1, 1]))
    assert places.tolist() == pytest.approx([2.5 / 3, 1 / 3, 1 / 3, 0.25, 0.75])
