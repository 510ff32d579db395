"""How fast this machine computes a run: packs and examples of the real data, timed.

Nothing is learned: the optimizer takes a step at a learning rate of 0, so that what it holds and
the time it takes are there.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from localllm.finetune.outcome.judge import Engine
from localllm.finetune.sampling import sample_prompts
from localllm.finetune.training.batches import Batches, Pack, pack
from localllm.finetune.training.device import of_module, synchronize
from localllm.finetune.training.group import ALONE, Group
from localllm.finetune.training.task import optimizer_of

if TYPE_CHECKING:
    from localllm.finetune.building import Built
    from localllm.finetune.run import Ready
    from localllm.ui import Progress

_TRIAL_S = 20.0  # of measuring: then what was seen has to do
_LEAST_PACKS = 2
_MOST_STEPS = 50
_FORWARD_S = 4.0
_ENGINE_S = 4.0
_ANSWER_TOKENS = 16
_DISK_BYTES = 512 << 20
_DISK_S = 2.0


@dataclass(frozen=True)
class Pace:
    """Tokens a second forward and back, and forward alone; seconds of the optimizer's step; what
    the disk of the run's state takes a second, flushed."""

    train_tps: float
    forward_tps: float
    optimizer_s: float
    disk_bytes_per_s: float = 500e6  # a laptop's


@dataclass(frozen=True)
class EnginePace:
    """Of llama.cpp: seconds to open the model, tokens a second judged, and seconds of all
    sample answers once (0 where there is nothing to ask, as of documents)."""

    open_s: float
    judge_tps: float
    answers_s: float


def measure_pace(built: Built, ready: Ready, progress: Progress, group: Group = ALONE) -> Pace:
    """Time the packs of the first steps. The largest one that a step can have comes first, once
    before the optimizer has its moments and once beside them: for the memory.

    Several processes compute as in a run: what is told is the speed of all of them.
    """
    task, recipe = built.task, ready.recipe
    batches = Batches(task.train, recipe.batch_size, task.pack_tokens, recipe.seed)
    optimizer = optimizer_of(task.learned, replace(recipe, lr=0.0))
    task.module.train()
    largest = pack(task.train, batches.largest_pack)
    _train(built, largest)  # also what prepares kernels
    _step(built, optimizer)
    device = of_module(task.module)
    largest_s = max(group.all_of(_timed(lambda: _train(built, largest), device)))
    optimizer_s = _timed(lambda: _step(built, optimizer, group), device)
    with progress.steps("trial", None) as advance:
        if largest_s > _TRIAL_S:  # each computed it: a slow machine or a large model
            train_tps = group.size * largest.n_tokens / largest_s
        else:
            train_tps = _speed(partial(_train, built), batches, group, device, _TRIAL_S,
                               partial(_forget, built), advance)  # fmt: skip
    _forget(built)
    task.module.eval()
    with torch.no_grad():
        forward_tps = _speed(partial(_losses, built), batches, group, device, _FORWARD_S)
    task.scorer.rest()
    return Pace(train_tps, forward_tps, optimizer_s)


def _speed(
    compute: Callable[[Pack | None], object], batches: Batches, group: Group,
    device: torch.device, most_s: float, begin: Callable[[], object] = lambda: None,
    advance: Callable[[int], object] = lambda n: None,
) -> float:  # fmt: skip
    """Tokens a second of all processes, over the packs of the first steps; `begin` comes before
    each step."""
    seconds, tokens, n = 0.0, 0, 0
    for step in range(min(batches.steps_per_epoch, _MOST_STEPS)):
        begin()
        for one in group.rounds(batches.step(step)):
            seconds += max(group.all_of(_timed(partial(compute, one), device)))
            tokens += 0 if one is None else one.n_tokens
            n += 1
            advance(1)
            if seconds > most_s and n >= _LEAST_PACKS:
                return group.sum_number(tokens) / seconds
    return group.sum_number(tokens) / seconds


def _losses(built: Built, one: Pack | None) -> None:
    """As an evaluation computes."""
    if one is None:
        built.task.scorer.lend()
    else:
        built.task.scorer.losses(one)


def measure_disk(folder: Path) -> float:
    """Bytes a second of a large file in `folder` until it is on the disk: written as a checkpoint
    is, block after block, and flushed once."""
    folder.mkdir(parents=True, exist_ok=True)
    block = bytes(8 << 20)
    began, written = time.perf_counter(), 0
    with tempfile.TemporaryFile(dir=folder) as file:
        while written < _DISK_BYTES and time.perf_counter() - began < _DISK_S:
            written += file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return written / (time.perf_counter() - began)


def measure_engine(ready: Ready) -> EnginePace:
    """Load the base in llama.cpp, judge some examples and answer a little."""
    recipe, held_out = ready.recipe, ready.learning.held_out
    items = held_out if len(held_out) else ready.learning.train
    prompts = sample_prompts(ready) if recipe.samples else []
    some = [items[i][0] for i in range(min(len(items), 64))]
    longest = max([len(one) for one in some] + [len(one) for one in prompts])
    n_ctx = max(longest, ready.layout.pack_tokens) + recipe.sample_tokens + 8
    began = time.perf_counter()
    with Engine(ready.subject.model.path, n_ctx, threads=ready.threads) as engine:
        engine.judge(some[:1])  # reads the file
        open_s = time.perf_counter() - began
        seconds, tokens = 0.0, 0
        for one in some:
            seconds += _timed(partial(engine.judge, [one]))
            tokens += len(one)
            if seconds > _ENGINE_S:
                break
        answers_s = _answers_seconds(engine, prompts, recipe.sample_tokens)
    return EnginePace(open_s, tokens / seconds, answers_s)


def _answers_seconds(engine: Engine, prompts: Sequence[Sequence[int]], wanted: int) -> float:
    """What answers of `wanted` tokens to all `prompts` take, by a part of the first one: reading
    it up to a token, and some tokens more."""
    if not prompts:
        return 0.0
    more = min(_ANSWER_TOKENS, wanted)
    read_s = _timed(lambda: list(engine.answers(prompts[:1], 1)))
    both_s = _timed(lambda: list(engine.answers(prompts[:1], 1 + more)))
    of_prompt = read_s / len(prompts[0])
    of_token = max(0.0, both_s - read_s) / more
    return sum(len(one) * of_prompt + wanted * of_token for one in prompts)


def _train(built: Built, one: Pack | None) -> None:
    task = built.task
    if one is None:
        task.scorer.lend()
        return
    total, _ = task.objective.total(task.scorer.losses(one), one)
    (total / max(1, task.objective.count(one))).backward()  # type: ignore[no-untyped-call]


def _forget(built: Built) -> None:
    """Begin a step's gradients anew: adding to those of the step before would take longer."""
    for parameter in built.task.learned.named.values():
        parameter.grad = None


def _step(built: Built, optimizer: torch.optim.Optimizer, group: Group = ALONE) -> None:
    learned = built.task.learned
    group.sum_gradients(learned.named.values())
    torch.nn.utils.clip_grad_norm_([p for p in learned.named.values() if p.grad is not None], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    learned.changed()


def _timed(call: Callable[[], object], device: torch.device | None = None) -> float:
    """Seconds until `call` is done, on `device` too."""
    began = time.perf_counter()
    call()
    if device is not None:
        synchronize(device)
    return time.perf_counter() - began
