"""What a dry run and the plan reckon, against what a run does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

import torch

from localllm.finetune import trial
from localllm.finetune.outcome.judge import MOST_JUDGED, Engine
from localllm.finetune.pace import EnginePace, Pace
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
    held_out, pace = rows(MOST_JUDGED + 100), EnginePace(1.0, 100.0, 0.0)
    _, few = trial.engine_seconds(ready, built([], held_out[:MOST_JUDGED]), 10, pace)
    assert trial.engine_seconds(ready, built([], held_out), 10, pace) == (0.0, few)
    n_tokens = sum(len(one.ids) - 1 for one in held_out[:50])
    found = trial.engine_seconds(ready, built([], held_out[:50]), 10, pace)
    assert found == (0.0, pytest.approx(1.0 + 2 * n_tokens / 100.0))


def test_samples_and_a_merge_take_the_engine_once_more_each() -> None:
    pace = EnginePace(1.0, 100.0, 4.0)
    held_out = [SimpleNamespace(ids=np.arange(101), mask=np.arange(101) > 0)]
    recipe = Recipe(samples=2, sample_tokens=20, sample_every=4, merge="Q6_K")
    found = trial.engine_seconds(SimpleNamespace(recipe=recipe), built([], held_out), 10, pace)  # type: ignore[arg-type]
    # three times answers of 4 s; before, after and merged 100 tokens
    assert found == (pytest.approx(3 * (1.0 + 4.0)), pytest.approx(1 + 2 * (1 + 4) + 1 + 1))


def test_documents_are_asked_nothing_and_a_prompt_of_ones_own_is(
    tune: Tune, tmp_path: Path
) -> None:
    """Before a document's first token that counts stands nothing to go on from: no answers are
    made. They were reckoned with one token a second, minutes for a run of seconds."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(f'{{"text": "the red cat sees house {n}"}}\n' for n in range(30)))
    options = ("--steps", 2, "--samples", 3, "--sample-tokens", 64)
    silent = tune("--dry-run", *options, source=texts)
    assert silent.exit_code == 0, silent
    assert silent.data["judging_s"] < 60  # 2 * 3 * 64 s once
    told = tune(*options, source=texts)
    assert told.data["samples"] == []
    asked = [word for n in range(5) for word in ("--sample-prompt", f"the cat {n}")]
    made = tune(*options, *asked, "--name", "t:asked", source=texts)
    assert len(made.data["samples"]) == 5  # so many, whatever --samples says


def test_the_memory_of_a_run_is_that_of_its_judging_too(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run tells the whole process's highest; a run told that of its training alone."""
    held: list[int] = []
    judge = Engine.judge

    def judge_beside_a_lot(self: Engine, *args: Any) -> Any:
        block = np.ones(256 << 20, np.uint8)
        held.append(psutil.Process().memory_info().rss)
        time.sleep(0.2)
        del block
        return judge(self, *args)

    monkeypatch.setattr(Engine, "judge", judge_beside_a_lot)
    done = tune("--steps", 1, "--samples", 0, "--name", "t:memory")
    assert done.exit_code == 0, done
    assert done.data["learned"]["peak_bytes"] >= 0.98 * max(held)


def test_answers_are_reckoned_for_all_prompts_by_length(tiny_gguf: Path) -> None:
    from localllm.finetune.pace import _answers_seconds

    with Engine(tiny_gguf, 600, threads=1) as engine:
        list(engine.answers([[1] * 400], 8))
        one = _answers_seconds(engine, [[1] * 400], 1)
        five = _answers_seconds(engine, [[1] * 400] * 5, 1)
        assert _answers_seconds(engine, [], 48) == 0
    assert one < five < 50 * one  # five times, within what a busy machine does to it


def test_steps_their_optimizer_and_what_is_saved_take_their_time() -> None:
    pace = Pace(train_tps=100.0, forward_tps=200.0, optimizer_s=0.5)
    train, held_out = rows(20), [SimpleNamespace(ids=np.arange(101), mask=np.arange(101) > 0)]
    task = built(train, held_out)  # type: ignore[arg-type]
    task.task.learned = SimpleNamespace(named={"w": torch.zeros(1000, 1000)})
    # 8 steps of 50 tokens, evaluations before, after 4 and after 8 of 100; 2 whole states saved
    # and the best numbers at 2 of them: before the first step nothing is learned
    wanted = 8 * (0.5 + 0.5) + 3 * 100 / 200 + 4e6 * (3 * 2 + 2) / 500e6
    found = trial.training_seconds(task, Recipe(eval_every=4), 8, 50.0, pace)
    assert found == pytest.approx(wanted)


def test_a_trial_changes_no_weight() -> None:
    """What `--dry-run` computes is as it would be without it: rates of 0 move nothing."""
    from localllm.finetune.pace import _step
    from localllm.finetune.training.task import Learned, optimizer_of

    weight = torch.nn.Parameter(torch.ones(3, 3))
    learned = Learned(None, {"w": weight})
    task: Any = SimpleNamespace(task=SimpleNamespace(learned=learned))
    optimizer = optimizer_of(learned, Recipe(lr=0.0, weight_decay=0.1))
    weight.grad = torch.full((3, 3), 2.0)
    _step(task, optimizer)
    assert torch.equal(weight, torch.ones(3, 3))
    assert weight.grad is None
    assert optimizer.state[weight]["exp_avg"].abs().sum() > 0


def test_the_preferences_before_are_counted() -> None:
    train, held_out = rows(20), rows(5, seed=1)
    recipe = Recipe(eval_every=4)
    plain = trial.measured_tokens(built(train, held_out), recipe, 8)
    evaluated = sum(len(one.ids) - 1 for one in held_out)
    assert plain == 3 * evaluated
    dpo = trial.measured_tokens(built(train, held_out, DirectPreference(0.1)), recipe, 8)
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


@pytest.mark.parametrize(
    ("disk", "every", "saves"),
    [
        (1e9, None, 10),  # a checkpoint of 1.2 s: at every evaluation
        (2e8, None, 2 + 1),  # of 6 s: first, last, and one in 60 s between
        (2e8, 2, 10),  # asked for
    ],
)
def test_long_checkpoints_are_counted_as_seldom_as_they_are_written(
    disk: float, every: int | None, saves: int
) -> None:
    task = SimpleNamespace(learned=SimpleNamespace(named={"w": torch.empty(10**8, device="meta")}))
    pace = Pace(100.0, 100.0, 0.0, disk_bytes_per_s=disk)
    found = trial.saving_seconds(
        SimpleNamespace(task=task),  # type: ignore[arg-type]
        Recipe(save_every=every), 20, 100.0, pace,
    )  # fmt: skip
    assert found == pytest.approx(saves * 1.2e9 / disk)


def test_a_save_that_takes_long_waits_until_it_is_a_small_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.finetune.training import keeping
    from localllm.finetune.training.group import ALONE
    from localllm.finetune.training.task import Learned

    weight = torch.nn.Parameter(torch.ones(3))
    learned = Learned(None, {"w": weight})
    place = SimpleNamespace(checkpoint=tmp_path / "c", best=tmp_path / "b")
    keeper = keeping.Keeper(
        SimpleNamespace(learned=learned),
        torch.optim.AdamW([weight]),
        place,
        ALONE,  # type: ignore[arg-type]
    )
    now = [100.0]
    monkeypatch.setattr(keeping.time, "perf_counter", lambda: now[0])
    assert keeper.is_worth()  # nothing is known of the disk yet

    def slowly(*args: Any) -> None:
        now[0] += 6.0

    monkeypatch.setattr(keeping.disk, "save", slowly)
    keeper.save(SimpleNamespace())  # type: ignore[arg-type]
    now[0] += 59.0
    assert not keeper.is_worth()
    now[0] += 2.0
    assert keeper.is_worth()
