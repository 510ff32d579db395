"""The dry run's figures: some packs of the real data computed on the real model, nothing learned.

A forward and a backward pass over the largest pack that a step can have gives the memory; the
packs of the first steps give the speed (see `pace`). What the run then takes is those, times its
steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from localllm.finetune.building import add_reference, build
from localllm.finetune.data.report import DataReport
from localllm.finetune.outcome.judge import MOST_JUDGED
from localllm.finetune.pace import EnginePace, Pace, measure_disk, measure_engine, measure_pace
from localllm.finetune.plan import Layout, MemoryNeed
from localllm.finetune.training.batches import Batches, Item
from localllm.finetune.training.keeping import SHARE, SHORT_S
from localllm.finetune.training.memory import PeakMemory
from localllm.finetune.training.objectives import DirectPreference
from localllm.finetune.training.task import evaluation_pace, planned_steps

if TYPE_CHECKING:
    from localllm.finetune.building import Built
    from localllm.finetune.recipe import Recipe
    from localllm.finetune.run import Ready
    from localllm.ui import Progress

_MARGIN = 0.05  # memory that a long run takes beyond a short one (the allocator's holes)
_MUCH_BYTES = 100e6  # of a checkpoint: from here on the disk's own speed is measured


@dataclass(frozen=True)
class DryRun:
    """What a run would take, by a trial. Times in seconds, memory in bytes at its highest;
    `planned` is what was reckoned before anything was loaded. `total_s` has the reading of the
    data in it. `judging_s` is llama.cpp's part
    at the end, reckoned from the tokens it will see."""

    name: str
    base: str
    data: DataReport
    n_train: int
    n_held_out: int
    n_steps: int
    tokens_per_step: float
    tokens_per_s: float
    n_params: int
    load_s: float
    training_s: float
    judging_s: float
    total_s: float
    peak_bytes: int
    planned: MemoryNeed
    layout: Layout
    precision: str
    precision_gflops: Mapping[str, float] | None
    recipe: Mapping[str, Any]


def try_run(ready: Ready, progress: Progress, folder: Path) -> DryRun:
    """Load the base, compute a few packs, say what the whole run would take. `folder` is where
    it would keep its state.

    Raises what building and the engine raise; the machine's memory was checked before.
    """
    began = time.perf_counter()
    group = ready.group()
    with PeakMemory(torch.device(ready.layout.device)) as memory:
        built = build(
            ready.subject, ready.learning, ready.recipe, ready.layout, ready.adapter, group
        )
        load_s = time.perf_counter() - began
        _few_references(built, progress)
        pace = measure_pace(built, ready, progress, group)
        n_learned = sum(p.numel() for p in built.task.learned.named.values())
        engine = measure_engine(ready) if group.is_first else EnginePace(0.0, 1.0, 0.0)
    n_steps = planned_steps(ready.recipe, len(ready.learning.train))
    if checkpoint_bytes(built) > _MUCH_BYTES and group.is_first:
        pace = replace(pace, disk_bytes_per_s=measure_disk(folder))
    batches = _batches(built.task.train, built, ready.recipe.batch_size)
    per_step = sum(batches.sizes) / batches.steps_per_epoch
    training_s = training_seconds(built, ready.recipe, n_steps, per_step, pace)
    sampling_s, judging_s = engine_seconds(ready, built, n_steps, engine)
    return DryRun(
        name=ready.name,
        base=ready.subject.model.name,
        data=ready.learning.prepared.report,
        n_train=len(ready.learning.train),
        n_held_out=len(ready.learning.held_out),
        n_steps=n_steps,
        tokens_per_step=per_step,
        tokens_per_s=pace.train_tps,
        n_params=n_learned,
        load_s=load_s,
        training_s=training_s + sampling_s,
        judging_s=judging_s,
        total_s=ready.seconds + load_s + training_s + sampling_s + judging_s,
        peak_bytes=int(memory.peak_bytes * (1 + _MARGIN)),
        planned=ready.need,
        layout=ready.layout,
        precision=built.precision,
        precision_gflops=None if built.trial is None else {
            "f32": built.trial.f32_gflops, "bf16": built.trial.bf16_gflops,
        },
        recipe=ready.recipe.as_dict(),
    )  # fmt: skip


def training_seconds(
    built: Built, recipe: Recipe, n_steps: int, per_step: float, pace: Pace
) -> float:
    """Steps of `per_step` tokens, what is measured between them, and what is saved."""
    steps_s = n_steps * (per_step / pace.train_tps + pace.optimizer_s)
    steps_s += measured_tokens(built, recipe, n_steps) / pace.forward_tps
    best_s = best_bytes(built, recipe, n_steps) / pace.disk_bytes_per_s
    return steps_s + best_s + saving_seconds(built, recipe, n_steps, steps_s + best_s, pace)


def saving_seconds(
    built: Built, recipe: Recipe, n_steps: int, between_s: float, pace: Pace
) -> float:
    """Of all checkpoints; as seldom as `Keeper.is_worth` has it where one takes long."""
    one_s = checkpoint_bytes(built) / pace.disk_bytes_per_s
    saves = math.ceil(n_steps / (recipe.save_every or evaluation_pace(recipe, n_steps)))
    if recipe.save_every is None and one_s >= SHORT_S:
        # at the first chance and at the end, whatever was computed
        saves = min(saves, 2 + int(between_s / (SHARE * one_s)))
    return saves * one_s


def checkpoint_bytes(built: Built) -> int:
    """Numbers and both moments."""
    return 12 * sum(p.numel() for p in built.task.learned.named.values())


def best_bytes(built: Built, recipe: Recipe, n_steps: int) -> int:
    """Of the numbers at each evaluation but the first, as if each were better than the last."""
    judged = _evaluations(recipe, n_steps) - 1 if len(built.task.held_out) else 0
    return checkpoint_bytes(built) // 3 * judged


def measured_tokens(built: Built, recipe: Recipe, n_steps: int) -> int:
    """Tokens computed without gradients: evaluations, and for DPO everything once before."""
    held_out = _tokens(built.task.held_out, built)
    found = _evaluations(recipe, n_steps) * held_out
    if isinstance(built.task.objective, DirectPreference):
        found += _tokens(built.task.train, built) + held_out
    return found


def engine_seconds(
    ready: Ready, built: Built, n_steps: int, engine: EnginePace
) -> tuple[float, float]:
    """llama.cpp's part: samples while it learns, and at the end the held-out examples and the
    answers before and after (and of the merged model the examples once more)."""
    recipe = ready.recipe
    samplings = math.ceil(n_steps / recipe.sample_every) if recipe.sample_every else 0
    judged_s = _tokens(built.task.held_out, built, MOST_JUDGED) / engine.judge_tps
    judging_s = engine.open_s + 2 * (judged_s + engine.answers_s)
    if recipe.merge is not None:
        judging_s += engine.open_s + judged_s
    return samplings * (engine.open_s + engine.answers_s), judging_s


def _few_references(built: Built, progress: Progress) -> None:
    """DPO wants the log-probabilities before; zeros do for measuring."""
    n = len(built.task.train) + len(built.task.held_out)
    add_reference(built, progress, dict.fromkeys(range(n), (0.0, 0.0)))


def _evaluations(recipe: Recipe, n_steps: int) -> int:
    """Before the first step, at every so many, and after the last one whatever it is."""
    return 1 + math.ceil(n_steps / evaluation_pace(recipe, n_steps))


def _batches(items: Sequence[Item], built: Built, size: int) -> Batches:
    return Batches(items, size, built.task.pack_tokens, 0)


def _tokens(items: Sequence[Item], built: Built, most: int | None = None) -> int:
    return sum(_batches(items, built, 1).sizes[:most])
