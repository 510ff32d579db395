"""Intervals: against figures computed elsewhere, and against the coverage they claim."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from localllm.bench.comparing.judge import student_t, trimmed_mean
from localllm.errors import UsageProblem
from localllm.library.bench.stable import StableRule, next_step
from localllm.library.bench.statistics import ci95, deviation, mean, ratio_ci95


def test_mean_and_deviation_are_llama_benchs() -> None:
    assert mean([100.0, 50.0, 25.0]) == pytest.approx(175 / 3)
    assert deviation([100.0, 50.0, 25.0]) == pytest.approx(statistics.stdev([100, 50, 25]))
    assert (mean([]), deviation([]), deviation([7.0])) == (0.0, 0.0, 0.0)


def test_one_sample_has_no_interval() -> None:
    assert ci95([]) is None
    assert ci95([42.0]) is None


def test_two_to_four_samples_take_students_t() -> None:
    found = ci95([100.0, 101.0, 99.0])
    assert found is not None and found.method == "student-t"
    assert found.low == pytest.approx(100 - 4.30265 / math.sqrt(3), abs=1e-3)  # a t table's value
    assert found.high == pytest.approx(100 + 4.30265 / math.sqrt(3), abs=1e-3)


def test_equal_samples_have_an_interval_of_no_width() -> None:
    found = ci95([5.0] * 8)
    assert found is not None and (found.low, found.high) == (5.0, 5.0)


def test_a_rate_is_never_below_nothing() -> None:
    found = ci95([1.0, 40.0])
    assert found is not None and found.low == 0.0


def test_the_same_samples_give_the_same_interval() -> None:
    values = [random.Random(3).gauss(100, 5) for _ in range(9)]
    assert ci95(values) == ci95(list(values))


def test_students_t_is_the_tables() -> None:
    table = {1: 63.657, 2: 9.925, 5: 4.032, 10: 3.169, 30: 2.750, 120: 2.617}
    for degrees, value in table.items():
        assert student_t(degrees) == pytest.approx(value, abs=1e-3)
    assert student_t(7, 0.95) == pytest.approx(2.3646, abs=1e-4)


@pytest.mark.parametrize("n", [5, 10, 20])
def test_intervals_hold_the_mean_as_often_as_they_say(n: int) -> None:
    """Skewed samples, as timings are: most alike, some much slower. The truth is known."""
    chance = random.Random(n)

    def draw() -> float:
        return chance.gauss(60, 6) if chance.random() < 0.15 else chance.gauss(100, 2)

    truth, trials = 0.15 * 60 + 0.85 * 100, 200
    held = 0
    for _ in range(trials):
        found = ci95([draw() for _ in range(n)])
        assert found is not None
        held += found.low <= truth <= found.high
    # Of 5 samples 44 % never see a slow one, and no method can know of it then; binomial slack.
    assert held / trials > (0.50 if n == 5 else 0.75 if n == 10 else 0.88)


def test_intervals_of_normal_samples_hold_the_mean() -> None:
    chance = random.Random(1)
    held = 0
    for _ in range(300):
        found = ci95([chance.gauss(100, 3) for _ in range(6)])
        assert found is not None
        held += found.low <= 100 <= found.high
    assert held / 300 > 0.92


def test_a_ratios_bounds_hold_the_ratio() -> None:
    chance = random.Random(2)
    held = 0
    for _ in range(200):
        base = [chance.gauss(100, 4) for _ in range(8)]
        new = [chance.gauss(90, 4) for _ in range(8)]
        found = ratio_ci95(base, new)
        assert found is not None
        held += found[0] <= 0.9 <= found[1]
    assert held / 200 > 0.92
    assert ratio_ci95([100.0], [90.0, 91.0]) is None
    assert ratio_ci95([0.0, 1.0], [90.0, 91.0]) is None


def test_a_trimmed_mean_bears_disturbed_values() -> None:
    values = [0.01, -0.01, 0.0, 0.005, -0.005, 0.002, -0.002, 0.001, 9.0, -9.0]
    centre, half = trimmed_mean(values)
    assert abs(centre) < 0.005
    assert half < 0.05
    assert trimmed_mean([1.0]) == (1.0, math.inf)


# --- until stable -----------------------------------------------------------------------


def test_a_quiet_machine_stops_at_the_second_look() -> None:
    rule, samples = StableRule(0.02), [100.0, 100.5, 99.5]
    taken: list[float] = []
    while (step := next_step(taken, rule, 0.1 * len(taken))).n_more:
        taken += [samples[len(taken) % 3] for _ in range(step.n_more)]
    assert step.stable
    assert len(taken) == 12  # 8, and half as many again


def test_no_look_before_the_least_number() -> None:
    assert next_step([100.0] * 7, StableRule(0.02), 1.0).n_more == 1
    assert next_step([100.0] * 8, StableRule(0.02), 1.0).n_more == 4  # narrow once is not enough


def test_the_budget_ends_it() -> None:
    chance = random.Random(4)
    rule, taken = StableRule(0.001, budget_s=20), [1.0, 200.0]
    while (step := next_step(taken, rule, float(len(taken)))).n_more:  # a second a sample
        taken += [chance.uniform(1, 200) for _ in range(step.n_more)]
    assert not step.stable
    assert len(taken) == 20


def test_two_samples_are_always_taken() -> None:
    assert next_step([], StableRule(0.02, budget_s=1), 0.0).n_more == 2
    assert next_step([5.0, 5.1], StableRule(0.02, budget_s=1), 600.0).n_more == 0


def test_what_stopped_is_as_narrow_as_it_says_no_less_often() -> None:
    """Stopping when the interval happens to be narrow must not make it wrong."""
    chance = random.Random(5)
    held = 0
    for _ in range(60):
        taken: list[float] = []
        while (step := next_step(taken, StableRule(0.05), 0.0)).n_more:
            taken += [chance.gauss(100, 8) for _ in range(step.n_more)]
        found = ci95(taken)
        assert step.stable and found is not None
        held += found.low <= 100 <= found.high
    assert held / 60 > 0.86  # 0.95 less three standard errors


@pytest.mark.parametrize("relative", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(relative: float) -> None:
    with pytest.raises(UsageProblem):
        StableRule(relative)
