"""What is trained: the model, what learns in it, on what; and judging it on what was held back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from localllm.finetune.recipe import Recipe
from localllm.finetune.training.adapters import Adapters
from localllm.finetune.training.batches import Batches, Item, Pack
from localllm.finetune.training.group import ALONE, Group
from localllm.finetune.training.objectives import Objective
from localllm.finetune.training.whole import parted_like, whole

_EVALS = 10  # a run, where nobody says how often


class Place(Protocol):
    """Files of a run."""

    @property
    def checkpoint(self) -> Path: ...

    @property
    def best(self) -> Path: ...


class Scores(Protocol):
    """What makes losses of packs; see `forward.Scorer` and `sharding.ShardedScorer`."""

    def losses(self, pack: Pack) -> Tensor: ...

    def lend(self) -> None:
        """A round in which this process has no pack, and others do."""

    def rest(self) -> None:
        """The passes without gradients are over."""


@dataclass(frozen=True)
class Task:
    """What is trained: the model ready for packs, what learns in it, on what."""

    module: Any
    scorer: Scores
    learned: Learned
    objective: Objective
    train: Sequence[Item]
    held_out: Sequence[Item]
    pack_tokens: int
    data_digest: str
    precision: str = "f32"  # what `scorer` computes in


@dataclass(frozen=True)
class Learned:
    """The tensors that change: adapters, or the whole model."""

    adapters: Adapters | None
    named: Mapping[str, torch.nn.Parameter]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by name, whole, one at a time. Of a sharded model all processes must ask
        for all of them."""
        return ((name, whole(p)) for name, p in self.named.items())

    def load(self, state: Iterable[tuple[str, Tensor]]) -> None:
        """Take whole tensors by name. Of a sharded model each process takes its part of them."""
        with torch.no_grad():
            for name, value in state:
                self.named[name].copy_(parted_like(self.named[name], value))
        self.changed()

    def changed(self) -> None:
        if self.adapters is not None:
            self.adapters.changed()


def planned_steps(recipe: Recipe, n_items: int) -> int:
    """How many steps a run takes: what `steps` says, else `epochs` over all items."""
    if recipe.steps is not None:
        return recipe.steps
    return max(1, math.ceil(recipe.epochs * math.ceil(n_items / recipe.batch_size)))


def evaluation_pace(recipe: Recipe, n_steps: int) -> int:
    """Steps between evaluations: what `eval_every` says, else ten evaluations a run."""
    return recipe.eval_every or max(1, n_steps // _EVALS)


def evaluate(
    task: Task, group: Group = ALONE, check: Callable[[], None] = lambda: None
) -> tuple[float, dict[str, float]]:
    """The objective on the held-out items, and what goes with it."""
    batches = Batches(task.held_out, len(task.held_out), task.pack_tokens, 0, len(task.train))
    total, count, extra = 0.0, 0, dict[str, float]()
    task.module.eval()
    with torch.no_grad():
        for pack in chain.from_iterable(map(group.rounds, batches.windows())):
            check()
            if pack is None:
                task.scorer.lend()
                continue
            found, beside = task.objective.total(task.scorer.losses(pack), pack)
            total += float(found)
            count += task.objective.count(pack)
            for key, value in beside.items():
                extra[key] = extra.get(key, 0.0) + value
    task.scorer.rest()
    count = max(1, round(group.sum_number(count)))
    extra = group.sum_each(extra)
    return group.sum_number(total) / count, {k: v / count for k, v in extra.items()}


def optimizer_of(learned: Learned, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; decay only on matrices, as is usual: norms and biases have none."""
    matrices = [p for p in learned.named.values() if p.dim() > 1]
    rest = [p for p in learned.named.values() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}]
    if rest:
        groups.append({"params": rest, "weight_decay": 0.0})
    # one pass over each tensor and no temporaries of its size; of parted tensors many at once,
    # since each single operation costs some tenth of a millisecond
    fused = all(p.device.type in ("cpu", "cuda") for p in learned.named.values()) or None
    return torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=fused
    )
