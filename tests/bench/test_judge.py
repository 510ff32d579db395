"""The gate's decisions, on samples whose truth is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from localllm.bench.comparing.judge import Loss, judged, paired_loss, rounds_loss, samples_loss
from localllm.bench.comparing.rerun import Settled, by_rounds, interleave
from localllm.bench.comparing.side import Round


def noisy(seed: int, spread: float, factor: float = 1.0) -> Callable[[], int]:
    chance = random.Random(seed)
    return lambda: int(1e8 * factor * math.exp(chance.gauss(0, spread)))


def test_a_loss_is_a_share_of_the_rate() -> None:
    found = paired_loss([100, 100, 100, 100], [125, 125, 125, 125])  # 25 % more time
    assert found.share == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.2), pytest.approx(0.2))
    assert samples_loss([10.0, 10.0], [8.0, 8.0]).share == pytest.approx(0.2)
    assert rounds_loss([[10.0, 10.0]], [[8.0, 8.0]] * 3).share == pytest.approx(0.2)


def test_too_few_samples_bound_nothing() -> None:
    for found in (paired_loss([1, 2], [2, 3]), samples_loss([10.0], [9.0]),
                  rounds_loss([[10.0, 10.0]], [[9.0, 9.0]] * 2)):  # fmt: skip
        assert (found.low, found.high) == (-math.inf, 1.0)


def test_a_drift_falls_on_both_sides() -> None:
    """A machine that slows down by a third while it is measured."""
    clock = iter(range(10_000))
    drifting = lambda: int(1e6 * (1 + next(clock) / 600))  # noqa: E731
    found = interleave(drifting, drifting, 0.05, lambda: True)
    assert found.outcome == "fine"
    assert abs(found.loss.share) < 0.001


@pytest.mark.parametrize("spread", [0.005, 0.05, 0.15])
def test_interleaving_finds_ten_percent_and_nothing_in_nothing(spread: float) -> None:
    for seed in range(10):
        same = interleave(noisy(seed, spread), noisy(seed + 100, spread), 0.05, lambda: True)
        slow = interleave(noisy(seed, spread), noisy(seed + 100, spread, 1.11), 0.05, lambda: True)
        assert same.outcome != "regression"
        assert slow.outcome == "regression" or (spread == 0.15 and slow.loss.share > 0.02)
    if spread == 0.005:
        assert slow.loss.n == 8  # a quiet machine is not kept waiting


def test_bursts_on_one_side_are_borne() -> None:
    chance = random.Random(7)

    def bursts() -> int:
        return int(1e8 * (4 if chance.random() < 0.06 else 1) * chance.uniform(0.99, 1.01))

    assert interleave(bursts, bursts, 0.05, lambda: True).outcome == "fine"


def test_no_time_left_decides_nothing_of_noise() -> None:
    left = iter([True] * 4)
    found = interleave(noisy(1, 0.3), noisy(2, 0.3, 1.3), 0.05, lambda: next(left, False))
    assert (found.outcome, found.remark) == ("undecided", "time was up")


def rounds_of(rates: list[float], other: float = 0.0) -> Callable[[], Round]:
    source = iter(rates)

    def take() -> Round:
        rate = next(source)
        return Round(tuple(int(1e9 / (rate * k)) for k in (0.999, 1.0, 1.001)), other)

    return take


def settle(rates: list[float], other: float = 0.0) -> Settled:
    return by_rounds([99.9, 100.0, 100.1], [], rounds_of(rates, other), 1, 0.05, lambda: True)


def test_rounds_that_are_all_slower_are_a_regression() -> None:
    found = settle([90.0, 90.2, 89.9, 90.1, 90.0])
    assert found.outcome == "regression"
    assert found.loss.share == pytest.approx(0.1, abs=0.01)


def test_one_fast_round_shows_that_the_code_is_not_slow() -> None:
    found = settle([60.0, 100.0, *[60.0, 61.0] * 5])
    assert found.outcome == "undecided"


def test_disturbed_rounds_prove_nothing() -> None:
    found = settle([50.0] * 30, other=1.2)
    assert found.outcome == "undecided"
    assert "other processes" in found.remark


def test_verdicts() -> None:
    def verdict(share: float, low: float, high: float, last: bool) -> str | None:
        return judged(Loss(share, low, high, 9), 0.05, last=last)

    assert verdict(0.10, 0.06, 0.14, False) == "regression"  # beyond, and surely
    assert verdict(0.01, -0.02, 0.04, False) == "fine"
    assert verdict(0.06, 0.02, 0.10, False) is None  # in doubt: go on
    assert verdict(0.06, 0.02, 0.10, True) == "regression"  # beyond both
    assert verdict(0.06, -0.02, 0.14, True) == "undecided"  # not beyond its own noise
    assert verdict(0.04, 0.01, 0.07, True) == "fine"  # slower, as is allowed
