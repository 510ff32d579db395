"""The learning rate at the steps that matter."""

from __future__ import annotations

import itertools

import pytest

from localllm.finetune.training.schedule import learning_rate


def rates(shape: str, n: int = 10, warmup: int = 2, floor: float = 0.0) -> list[float]:
    return [learning_rate(i, n, 3.0, shape, warmup, floor) for i in range(n)]  # type: ignore[arg-type]


def test_it_rises_evenly_and_never_begins_at_zero() -> None:
    assert rates("cosine")[:3] == pytest.approx([1.0, 2.0, 3.0])
    assert rates("constant", warmup=0) == [3.0] * 10


def test_linear_falls_by_the_same_amount() -> None:
    falling = rates("linear")[2:]
    steps = [a - b for a, b in itertools.pairwise(falling)]
    assert steps == pytest.approx([3.0 / 8] * 7)


def test_cosine_is_half_way_in_the_middle_and_ends_near_the_floor() -> None:
    assert rates("cosine")[6] == pytest.approx(1.5)
    assert rates("cosine", n=1000, floor=0.1)[-1] == pytest.approx(0.3, rel=1e-3)
