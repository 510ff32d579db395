"""What a run keeps on disk: its state to go on from, and the weights that judged best.

Tensors go tensor by tensor. Of a parted model all processes gather each, the first one writes it,
and nobody has more than one of them whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from localllm.finetune.recipe import check_unchanged
from localllm.finetune.training import checkpoint as disk
from localllm.finetune.training.checkpoint import Checkpoint
from localllm.finetune.training.group import Group
from localllm.finetune.training.task import Place, Task
from localllm.finetune.training.whole import load_state, state_tensors

_LEARNED, _OPTIMIZER = "learned ", "optimizer "

SHORT_S = 2.0  # that may be saved as often as is judged
SHARE = 10  # of the time between: what takes longer is saved once in so many times as long


class Keeper:
    """The files of one run. Every process must call what is called in any."""

    def __init__(
        self, task: Task, optimizer: torch.optim.Optimizer, place: Place, group: Group
    ) -> None:
        self._learned, self._optimizer = task.learned, optimizer
        self._checkpoint, self._best, self._group = place.checkpoint, place.best, group
        self._took_s = self._ended = 0.0  # of the last save

    def is_worth(self) -> bool:
        """Whether saving is short beside what was computed since it was done last: the whole model
        and its moments on a slow disk would be most of a run."""
        since = time.perf_counter() - self._ended
        return self._group.told(self._took_s < SHORT_S or since > SHARE * self._took_s)

    def save(self, state: Checkpoint) -> None:
        """Raises DiskFull; the state before is kept then."""
        began = time.perf_counter()
        tensors = chain(
            _under(_LEARNED, self._learned.tensors()),
            _under(_OPTIMIZER, state_tensors(self._optimizer)),
        )
        if self._group.is_first:
            disk.save(state, tensors, self._checkpoint)
        else:
            _help(tensors)
        self._ended = time.perf_counter()
        self._took_s = self._ended - began

    def restore(self, fixed: Mapping[str, Any]) -> Checkpoint | None:
        """Put what was saved in place; None where nothing was. Raises UsageProblem where the run
        was begun with something else than `fixed`, DamagedFile."""
        found = disk.load(self._checkpoint) if self._group.is_first else None
        state = self._group.told(found and found[0])
        if state is None:
            return None
        check_unchanged(state.fixed, fixed, "data")
        learned, moments = (
            found[1].under(prefix) if found else () for prefix in (_LEARNED, _OPTIMIZER)
        )
        self._learned.load(self._group.each_told(learned))
        load_state(self._optimizer, state.optimizer, self._group.each_told(moments))
        return state

    def save_best(self, step: int) -> None:
        """Raises DiskFull."""
        if self._group.is_first:
            disk.write_whole(self._best, {"step": step}, self._learned.tensors())
        else:
            _help(self._learned.tensors())

    def restore_best(self, step: int) -> bool:
        """Put the weights of `step` in place; False where others are kept. Raises DamagedFile."""
        # the other processes may be on machines of their own, without the file
        best = disk.read_whole(self._best) if self._group.is_first else None
        if self._group.told(best and best[0]["step"]) != step:
            return False
        self._learned.load(self._group.each_told(best[1].items() if best else ()))
        return True


def _under(prefix: str, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    return ((prefix + name, one) for name, one in tensors)


def _help(tensors: Iterator[tuple[str, Tensor]]) -> None:
    """Gather with the process that writes, and keep nothing."""
    for _ in tensors:
        pass
