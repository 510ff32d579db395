"""Several processes that train one model: torchrun or `accelerate launch` start them.

Each computes its share of a step's packs. Gradients are summed over all of them and divided by
the whole step's count, which every process knows: shares need not be equal, and the result is
what one process would have computed, but for rounding.

Processes go in rounds, a pack each; who has none left waits, or lends its part of the model (see
`sharding`). What they decide (to stop, where to begin) they decide together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from localllm.errors import TrainingFailed, UsageProblem
from localllm.finetune.training.batches import Pack
from localllm.finetune.training.prepare import launched

Value = TypeVar("Value")

# One process may wait long while the first writes, samples, or waits for another run of the name.
_PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Group:
    """This process's number among how many. `shards`: each holds a part of the model only."""

    rank: int = 0
    size: int = 1
    shards: bool = False

    @property
    def is_first(self) -> bool:
        """The one that writes and speaks."""
        return self.rank == 0

    def rounds(self, packs: Sequence[Pack]) -> list[Pack | None]:
        """This process's packs: by size in turn, so that shares are about equal. As many in
        every process: None where it has none."""
        if self.size == 1:
            return list(packs)
        ordered = sorted(packs, key=lambda pack: -pack.n_tokens)
        mine = ordered[self.rank :: self.size]
        return [*mine, *[None] * (-(-len(packs) // self.size) - len(mine))]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Of each parameter over all processes; of a sharded model that is done already."""
        if self.size == 1 or self.shards:
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
        found = self.all_of(dict(values))
        keys = dict.fromkeys(key for one in found for key in one)
        return {key: sum(one.get(key, 0.0) for one in found) for key in keys}

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return self.sum_number(flag) > 0

    def told(self, value: Value) -> Value:
        """What the first process has; the others' own is dropped."""
        if self.size == 1:
            return value
        held = [value if self.is_first else None]
        dist.broadcast_object_list(held, src=0)
        found: Any = held[0]
        return found  # type: ignore[no-any-return]

    def each_told(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The first process's tensors, one at a time: no process has them all. What the others
        give is not looked at."""
        if self.size == 1:
            yield from tensors
            return
        own = iter(tensors) if self.is_first else iter(())
        while True:
            name, one = next(own, (None, None))
            told = self.told(None if one is None else (name, one.shape, one.dtype))
            if told is None:
                return
            one = torch.empty(told[1], dtype=told[2]) if one is None else one.contiguous()
            dist.broadcast(one, src=0)
            yield str(told[0]), one

    def all_of(self, value: Value) -> list[Value]:
        """Every process's, in their order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def together(self) -> Iterator[None]:
        """While the block runs a process that is gone is TrainingFailed in the others."""
        try:
            yield
        except RuntimeError as error:  # the connections' errors have no class of their own
            said = str(error).lower()
            if self.size == 1 or not ("gloo" in said or "nccl" in said):
                raise
            raise TrainingFailed(
                "a process that trained with this one ended",
                "what it said is the reason; the same command with --resume goes on",
            ) from None


ALONE = Group()


def join(device: str = "cpu") -> Group:
    """Meet the other processes that a launcher started; ALONE where there are none.

    What is said and what lies in the host's memory goes over gloo; of processes that compute on
    CUDA devices what lies there goes over NCCL. Raises UsageProblem where this torch has none.
    """
    rank, size = launched()
    if size == 1:
        return ALONE
    if not dist.is_initialized():
        on_cuda = device.startswith("cuda")
        if on_cuda and not dist.is_nccl_available():
            raise UsageProblem(
                "several processes on GPUs need NCCL, which this torch has not", "--device cpu"
            )
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=_PATIENCE)
    return Group(rank, size)


def leave() -> None:
    """Let go of the others."""
    if dist.is_initialized():
        dist.destroy_process_group()
