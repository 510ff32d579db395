"""The dry run's figures: some packs of the real data computed on the real model, nothing learned.

A forward and a backward pass over the largest pack that a step can have gives the memory; the
packs of the first steps give the speed. What the run then takes is those, times its steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localllm.finetune.building import add_reference, build
from localllm.finetune.data.report import DataReport
from localllm.finetune.outcome.judge import MOST_JUDGED
from localllm.finetune.plan import Layout, MemoryNeed
from localllm.finetune.training.batches import Batches, Pack, pack
from localllm.finetune.training.memory import PeakMemory
from localllm.finetune.training.objectives import DirectPreference
from localllm.finetune.training.task import evaluation_pace, planned_steps

if TYPE_CHECKING:
    from localllm.finetune.building import Built
    from localllm.finetune.recipe import Recipe
    from localllm.finetune.run import Ready
    from localllm.ui import Progress

_TRIAL_S = 20.0  # of measuring: then what was seen has to do
_LEAST_PACKS = 2
_MARGIN = 0.1  # memory that a long run takes beyond a short one (the allocator's holes)


@dataclass(frozen=True)
class DryRun:
    """What a run would take, by a trial. Times in seconds, memory in bytes at its highest;
    `planned` is what was reckoned before anything was loaded. `judging_s` is llama.cpp's part
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


def try_run(ready: Ready, progress: Progress) -> DryRun:
    """Load the base, compute a few packs, say what the whole run would take.

    Raises what building raises; the machine's memory was checked before.
    """
    began = time.perf_counter()
    with PeakMemory() as memory:
        built = build(ready.subject, ready.learning, ready.recipe, ready.layout, ready.adapter)
        load_s = time.perf_counter() - began
        _few_references(built, progress)
        speed, _tokens = _measured(built, ready, progress)
    n_steps = planned_steps(ready.recipe, len(ready.learning.train))
    batches = _batches(built, ready)
    per_step = sum(batches.sizes) / batches.steps_per_epoch
    training_s = (n_steps * per_step + _measuring(built, ready.recipe, n_steps) / 3) / speed
    judging_s = _judging_s(ready, built, speed)
    return DryRun(
        name=ready.name,
        base=ready.subject.model.name,
        data=ready.learning.prepared.report,
        n_train=len(ready.learning.train),
        n_held_out=len(ready.learning.held_out),
        n_steps=n_steps,
        tokens_per_step=per_step,
        tokens_per_s=speed,
        n_params=sum(p.numel() for p in built.task.learned.named.values()),
        load_s=load_s,
        training_s=training_s,
        judging_s=judging_s,
        total_s=load_s + training_s + judging_s,
        peak_bytes=int(memory.peak_bytes * (1 + _MARGIN)),
        planned=ready.need,
        layout=ready.layout,
        precision=built.precision,
        precision_gflops=None if built.trial is None else {
            "f32": built.trial.f32_gflops, "bf16": built.trial.bf16_gflops,
        },
        recipe=ready.recipe.as_dict(),
    )  # fmt: skip


def _batches(built: Built, ready: Ready) -> Batches:
    recipe = ready.recipe
    return Batches(built.task.train, recipe.batch_size, built.task.pack_tokens, recipe.seed)


def _few_references(built: Built, progress: Progress) -> None:
    """DPO wants the log-probabilities before; zeros do for measuring."""
    if _has_reference(built):
        add_reference(built, progress, dict.fromkeys(range(_n_items(built)), (0.0, 0.0)))


def _has_reference(built: Built) -> bool:
    return isinstance(built.task.objective, DirectPreference)


def _n_items(built: Built) -> int:
    return len(built.task.train) + len(built.task.held_out)


def _measured(built: Built, ready: Ready, progress: Progress) -> tuple[float, int]:
    """Tokens a second, forward and back, and how many were computed; the largest pack first."""
    task = built.task
    batches = _batches(built, ready)
    task.module.train()
    _compute(built, pack(task.train, batches.largest_pack))  # also what prepares kernels
    seconds, tokens, n = 0.0, 0, 0
    with progress.steps("trial", None) as advance:
        for one in _packs(batches):
            began = time.perf_counter()
            _compute(built, one)
            seconds += time.perf_counter() - began
            tokens += one.n_tokens
            n += 1
            advance(1)
            if seconds > _TRIAL_S and n >= _LEAST_PACKS:
                break
    for parameter in task.learned.named.values():
        parameter.grad = None
    return tokens / seconds, tokens


def _packs(batches: Batches) -> Iterator[Pack]:
    """The packs of the first steps, at most of one epoch."""
    for step in range(min(batches.steps_per_epoch, 50)):
        yield from batches.step(step)


def _compute(built: Built, one: Pack) -> None:
    task = built.task
    total, _ = task.objective.total(task.scorer.losses(one), one)
    (total / max(1, task.objective.count(one))).backward()  # type: ignore[no-untyped-call]


def _measuring(built: Built, recipe: Recipe, n_steps: int) -> int:
    """Tokens computed without gradients, which is about a third of a step's work: evaluations,
    and for DPO everything once before."""
    items = built.task.train
    held_out = _held_out_tokens(built)
    found = _evaluations(recipe, n_steps) * held_out
    if _has_reference(built):
        found += sum(Batches(items, len(items), built.task.pack_tokens, 0).sizes) + held_out
    return found


def _evaluations(recipe: Recipe, n_steps: int) -> int:
    """Before the first step, at every so many, and after the last one whatever it is."""
    return 1 + math.ceil(n_steps / evaluation_pace(recipe, n_steps))


def _held_out_tokens(built: Built, most: int | None = None) -> int:
    items = built.task.held_out
    if not len(items):
        return 0
    return sum(Batches(items, len(items), built.task.pack_tokens, 0).sizes[:most])


def _judging_s(ready: Ready, built: Built, speed: float) -> float:
    """llama.cpp without and with the adapter: forward alone, about three times as fast as
    training computes; answers about as fast as reading, token by token."""
    sampled = 2 * ready.recipe.samples * ready.recipe.sample_tokens
    judged = _held_out_tokens(built, MOST_JUDGED)
    return 2 * judged / (3 * speed) + sampled / max(speed / 10, 1.0) + 2.0
