"""Slopes between and beyond measured points."""

from __future__ import annotations

import math

import pytest

from localllm.quantize.search.curves import Curves, Point


def point(error: float, kld: float, n: int = 4, kind: str = "q4_k") -> Point:
    return Point({f"t{i}": kind for i in range(n)}, n, error, kld)


def test_without_any_point_damage_is_the_error() -> None:
    assert Curves().slope("attn_q/1", 0.01) == 1.0


def test_one_point_is_a_straight_line() -> None:
    curves = Curves()
    curves.add("attn_q/1", point(0.01, 0.008))
    for error in (0.0001, 0.01, 0.5):
        assert curves.slope("attn_q/1", error) == pytest.approx(0.008 / 0.04)


def test_between_two_points_the_slope_follows_the_logarithm_and_beyond_them_it_stays() -> None:
    curves = Curves()
    curves.add("k/1", point(0.1, 0.4, n=1, kind="q2_k"))  # 4 a unit
    curves.add("k/1", point(0.001, 0.001, n=1))  # 1 a unit
    assert curves.slope("k/1", 0.01) == pytest.approx(math.sqrt(1 * 4))
    assert curves.slope("k/1", 1e-6) == pytest.approx(1.0)
    assert curves.slope("k/1", 0.9) == pytest.approx(4.0)


def test_what_was_not_measured_takes_what_its_kind_has() -> None:
    curves = Curves()
    curves.add("attn_q/1", point(0.01, 0.04))
    curves.add("ffn_up/1", point(0.01, 4.0))
    curves.add("ffn_up/2", point(0.01, 8.0))
    assert curves.slope("attn_q/2", 0.01) == pytest.approx(1.0)
    assert curves.slope("ffn_up/3", 0.01) == pytest.approx(150.0)
    assert curves.slope("output", 0.01) == pytest.approx(100.0)  # the median of all


def test_a_group_that_seems_to_do_nothing_counts_a_little() -> None:
    curves = Curves()
    curves.add("attn_q/1", point(0.01, -1e-9))
    curves.add("attn_q/2", point(0.01, 0.04))
    assert curves.slope("attn_q/1", 0.01) == pytest.approx(0.1)


def test_the_same_types_measured_again_replace_the_point() -> None:
    curves = Curves()
    curves.add("a/1", point(0.01, 0.04))
    curves.add("a/1", point(0.01, 0.08))
    assert [p.kld for p in curves.points["a/1"]] == [0.08]


def test_the_nearest_point_is_nearest_by_ratio() -> None:
    curves = Curves()
    curves.add("a/1", point(0.001, 0.1))
    curves.add("a/1", point(0.1, 1.0, kind="q2_k"))
    near = curves.nearest("a/1", 0.02)
    assert near is not None
    assert near.error == 0.1
    assert curves.nearest("b/1", 0.02) is None
