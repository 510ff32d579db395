"""What a dry run and the plan reckon, against what a run does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

from localllm.finetune import trial
from localllm.finetune.outcome.judge import MOST_JUDGED, Engine
from localllm.finetune.recipe import Recipe
from localllm.finetune.training.objectives import DirectPreference, Likelihood, Objective
from tests.conftest import Done
from tests.finetune.tiny_torch import Row, rows

Tune = Callable[..., Done]


def built(train: list[Row], held_out: list[Row], objective: Objective | None = None) -> Any:
    task = SimpleNamespace(
        train=[[one] for one in train], held_out=[[one] for one in held_out], pack_tokens=64,
        objective=objective or Likelihood(),
    )  # fmt: skip
    return SimpleNamespace(task=task)


@pytest.mark.parametrize(
    ("steps", "every"), [(6, 4), (6, 3), (5, None), (19, None), (1, None), (3, 10)]
)
def test_every_evaluation_is_counted(tune: Tune, steps: int, every: int | None) -> None:
    options = [] if every is None else ["--eval-every", every]
    done = tune("--steps", steps, "--samples", 0, "--name", "t:evals", *options)
    assert done.exit_code == 0, done
    assert len(done.data["held_out"]) == trial._evaluations(Recipe(eval_every=every), steps)


def test_judging_counts_only_what_is_judged() -> None:
    ready: Any = SimpleNamespace(recipe=Recipe(samples=0))
    held_out = rows(MOST_JUDGED + 100)
    few = trial._judging_s(ready, built([], held_out[:MOST_JUDGED]), 100.0)
    assert trial._judging_s(ready, built([], held_out), 100.0) == few
    assert trial._judging_s(ready, built([], held_out[:50]), 100.0) < few


def test_the_preferences_before_are_counted() -> None:
    train, held_out = rows(20), rows(5, seed=1)
    recipe = Recipe(eval_every=4)
    plain = trial._measuring(built(train, held_out), recipe, 8)
    evaluated = sum(len(one.ids) - 1 for one in held_out)
    assert plain == 3 * evaluated
    dpo = trial._measuring(built(train, held_out, DirectPreference(0.1)), recipe, 8)
    assert dpo - plain == evaluated + sum(len(one.ids) - 1 for one in train)


def test_the_engine_opens_although_memory_seems_gone(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from localllm.errors import DoesNotFit
    from localllm.placement import PlanOptions, here, open_model

    real = here.target_here
    monkeypatch.setattr(
        here, "target_here", lambda *a: replace(real(*a), host_available_bytes=1000, gpus=())
    )
    with pytest.raises(DoesNotFit):
        open_model(tiny_gguf, PlanOptions(n_ctx=256))
    with Engine(tiny_gguf, 64, threads=1) as engine:
        assert [one.answer for one in engine.answers([[1, 2, 3]], 2)]
