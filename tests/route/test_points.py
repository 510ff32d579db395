from __future__ import annotations

import numpy as np
import pytest

from localllm.errors import UsageProblem
from localllm.route.measuring.curve import curve
from localllm.route.measuring.points import Prices, best_for_budget, cheapest_for_quality, point

# Two prompts need the strong model, one is worse with it: quality 0.4, 0.6, 0.8, 0.8, 0.8, 0.6
CURVE = curve(np.array([5.0, 4, 3, 2, 1]), np.array([0.0, 0, 1, 0, 1]), np.array([1.0, 1, 1, 0, 0]))
PRICES = Prices(1.0, 11.0)


def test_points_by_hand() -> None:
    found = point(CURVE, 0.3, PRICES)
    assert (found.quality, found.recovered, found.cost) == pytest.approx((0.7, 1.5, 4.0))
    assert cheapest_for_quality(CURVE, 0.5, PRICES).strong_share == pytest.approx(0.1)


def test_a_budget_buys_the_best_and_not_the_most() -> None:
    assert best_for_budget(CURVE, 3.0, PRICES).strong_share == pytest.approx(0.2)
    rich = best_for_budget(CURVE, 100.0, PRICES)
    assert (rich.strong_share, rich.quality) == pytest.approx((0.4, 0.8))
    assert best_for_budget(CURVE, 1.0, PRICES).strong_share == 0.0


def test_a_strong_model_that_is_the_cheaper_one() -> None:
    found = best_for_budget(CURVE, 3.0, Prices(5.0, 1.0))
    assert found.strong_share >= 0.5 and found.cost <= 3.0


@pytest.mark.parametrize("prices", [(-1.0, 1.0), (float("nan"), 1.0)])
def test_prices_that_are_none(prices: tuple[float, float]) -> None:
    with pytest.raises(UsageProblem, match="price"):
        Prices(*prices)


def test_a_budget_that_buys_nothing() -> None:
    with pytest.raises(UsageProblem, match="cheaper model"):
        best_for_budget(CURVE, 0.5, PRICES)
