"""How a run goes through its steps."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

from localllm.finetune.scratch.pace import (
    MOST_EPOCHS,
    REACHES,
    batch_rows,
    dropout_of,
    planned_tokens,
    reach_at,
)
from localllm.finetune.scratch.recipe import TrainRecipe
from localllm.finetune.scratch.trial import Speed


def test_a_run_sees_further_and_further_and_in_the_end_all() -> None:
    seen = [reach_at(step / 1000) or 10**9 for step in range(1000)]
    assert seen == sorted(seen)
    assert seen[-1] == 10**9
    for share, reach in REACHES:
        assert seen.count(reach or 10**9) == pytest.approx(1000 * share, abs=1)


def test_what_is_read_often_is_learned_with_more_left_out() -> None:
    shares = [dropout_of(TrainRecipe(), epochs) for epochs in (0.5, 2, 5, 12, 20)]
    assert shares == sorted(shares)
    assert shares[0] == 0 and 0 < shares[-1] <= 0.3
    assert dropout_of(TrainRecipe(dropout=0.0), 20) == 0
    assert dropout_of(TrainRecipe(dropout=0.4), 0.1) == 0.4


def test_the_optimizer_costs_less_a_token_the_larger_the_step() -> None:
    speed = Speed(tokens_per_s=1000, step_s=0.5, peak_bytes=0)
    assert speed.with_batch(500) == pytest.approx(500)  # half a second each
    assert speed.with_batch(1e9) == pytest.approx(1000)


def test_a_budget_is_kept_to() -> None:
    recipe = TrainRecipe(budget=10)
    assert 500_000 < planned_tokens(recipe, 1000, 10**9) < 600_000
    assert planned_tokens(recipe, 1000, 100) == MOST_EPOCHS * 100
    assert planned_tokens(TrainRecipe(epochs=2.5), 1000, 100) == 250
    rows = batch_rows(recipe, 6e6, 10**6)
    assert 6e6 / (rows * recipe.context) == pytest.approx(1000, rel=0.1)
    assert batch_rows(recipe, 6e6, 20) == 5  # of few rows there would be no steps else
