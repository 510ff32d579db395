"""How fast this machine computes a run: packs and examples of the real data, timed.

Nothing is learned: the optimizer takes a step at a learning rate of 0, so that what it holds and
the time it takes are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from localllm.finetune.outcome.judge import Engine
from localllm.finetune.sampling import sample_prompts
from localllm.finetune.training.batches import Batches, Pack, pack
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


@dataclass(frozen=True)
class Pace:
    """Tokens a second forward and back, and forward alone; seconds of the optimizer's step."""

    train_tps: float
    forward_tps: float
    optimizer_s: float


@dataclass(frozen=True)
class EnginePace:
    """Of llama.cpp: seconds to open the model, tokens a second judged and answered."""

    open_s: float
    judge_tps: float
    answer_tps: float


def measure_pace(built: Built, ready: Ready, progress: Progress) -> Pace:
    """Time the packs of the first steps. The largest one that a step can have comes first, once
    before the optimizer has its moments and once beside them: for the memory."""
    task, recipe = built.task, ready.recipe
    batches = Batches(task.train, recipe.batch_size, task.pack_tokens, recipe.seed)
    optimizer = optimizer_of(task.learned, replace(recipe, lr=0.0))
    task.module.train()
    largest = pack(task.train, batches.largest_pack)
    _train(built, largest)  # also what prepares kernels
    _step(built, optimizer)
    _train(built, largest)
    optimizer_s = _timed(lambda: _step(built, optimizer))
    seconds, tokens, n = 0.0, 0, 0
    with progress.steps("trial", None) as advance:
        for one in _packs(batches):
            seconds += _timed(partial(_train, built, one))
            tokens += one.n_tokens
            n += 1
            advance(1)
            if seconds > _TRIAL_S and n >= _LEAST_PACKS:
                break
    for parameter in task.learned.named.values():
        parameter.grad = None
    return Pace(tokens / seconds, _forward_tps(built, batches), optimizer_s)


def _forward_tps(built: Built, batches: Batches) -> float:
    """As an evaluation computes."""
    task = built.task
    task.module.eval()
    seconds, tokens = 0.0, 0
    with torch.no_grad():
        for one in _packs(batches):
            seconds += _timed(partial(task.scorer.losses, one))
            tokens += one.n_tokens
            if seconds > _FORWARD_S:
                break
    return tokens / seconds


def measure_engine(ready: Ready) -> EnginePace:
    """Load the base in llama.cpp, judge some examples and answer a little."""
    recipe, held_out = ready.recipe, ready.learning.held_out
    items = held_out if len(held_out) else ready.learning.train
    prompts = sample_prompts(ready)[:1] if recipe.samples else []
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
        wanted = min(_ANSWER_TOKENS, recipe.sample_tokens)
        answer_s = _timed(lambda: list(engine.answers(prompts, wanted)))
    answer_tps = wanted / answer_s if prompts else 1.0
    return EnginePace(open_s, tokens / seconds, answer_tps)


def _packs(batches: Batches) -> Iterator[Pack]:
    """The packs of the first steps, at most of one epoch."""
    for step in range(min(batches.steps_per_epoch, _MOST_STEPS)):
        yield from batches.step(step)


def _train(built: Built, one: Pack) -> None:
    task = built.task
    total, _ = task.objective.total(task.scorer.losses(one), one)
    (total / max(1, task.objective.count(one))).backward()  # type: ignore[no-untyped-call]


def _step(built: Built, optimizer: torch.optim.Optimizer) -> None:
    learned = built.task.learned
    torch.nn.utils.clip_grad_norm_([p for p in learned.named.values() if p.grad is not None], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    learned.changed()


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
