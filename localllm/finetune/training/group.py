"""Several processes that train one model: torchrun or `accelerate launch` start them.

Each computes its share of a step's packs. Gradients are summed over all of them and divided by
the whole step's count, which every process knows: shares need not be equal, and the result is
what one process would have computed, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from localllm.finetune.training.batches import Pack
from localllm.finetune.training.prepare import launched


@dataclass(frozen=True)
class Group:
    """This process's number among how many."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """The one that writes and speaks."""
        return self.rank == 0

    def share(self, packs: Sequence[Pack]) -> Sequence[Pack]:
        """This process's packs: by size in turn, so that shares are about equal."""
        if self.size == 1:
            return packs
        ordered = sorted(packs, key=lambda pack: -pack.n_tokens)
        return ordered[self.rank :: self.size]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def sum_number(self, value: float) -> float:
        if self.size == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)

    def sum_each(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each key's sum. A process that had no packs has no keys, and takes part all the same."""
        if self.size == 1:
            return dict(values)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, dict(values))
        keys = dict.fromkeys(key for one in found for key in one)
        return {key: sum(one.get(key, 0.0) for one in found) for key in keys}

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Group()


def join() -> Group:
    """Meet the other processes that a launcher started; ALONE where there are none."""
    rank, size = launched()
    if size == 1:
        return ALONE
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # what is summed lies in the host's memory
    return Group(rank, size)
