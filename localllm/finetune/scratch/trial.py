"""How fast this machine trains a shape: some steps on random tokens, before anything is decided."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from localllm.finetune.data.rows import RowAt
from localllm.finetune.data.store import Example
from localllm.finetune.scratch.model import begin, optimizer_of
from localllm.finetune.scratch.network import network
from localllm.finetune.scratch.pace import REACHES
from localllm.finetune.scratch.recipe import TrainRecipe
from localllm.finetune.scratch.shape import Shape
from localllm.finetune.training.batches import pack
from localllm.finetune.training.memory import PeakMemory

_TRIAL_S = 4.0
_LEAST = 2  # rounds
_LEFT_OUT = 0.1


@dataclass(frozen=True)
class Speed:
    """Tokens a second forward and back, as the run goes through its reaches; seconds of the
    optimizer at each step; resident memory at its highest."""

    tokens_per_s: float
    step_s: float
    peak_bytes: int

    def with_batch(self, tokens: float) -> float:
        """Tokens a second, optimizer included, with so many of them a step."""
        return 1 / (1 / self.tokens_per_s + self.step_s / tokens)


def try_shape(shape: Shape, recipe: TrainRecipe, precision: str, pack_tokens: int) -> Speed:
    """Some seconds of training: the mean, since the run will share the machine just so."""
    module = begin(shape, 0)
    module.train()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    seen: list[int | None] = [None]
    left_out = _LEFT_OUT if recipe.dropout is None else recipe.dropout  # drawing it takes time
    score = network(module, dtype, left_out, lambda: seen[0])
    optimizer = optimizer_of(module, recipe, 0.0, dtype)
    draw = np.random.default_rng(0)
    n_rows = max(1, pack_tokens // shape.context)
    mask = np.arange(shape.context + 1) > 0
    size, at = shape.context + 1, RowAt("", 0)
    drawn = draw.integers(0, shape.n_vocab, (n_rows, size)).astype(np.int32)
    one = pack([[Example(ids, mask, at)] for ids in drawn], range(n_rows))
    reached, moved, rounds = 0.0, 0.0, 0
    with PeakMemory() as memory:
        while rounds <= _LEAST or reached + moved < _TRIAL_S:
            spent, stepped = 0.0, 0.0
            for share, reach in REACHES:
                seen[0] = reach
                began = time.perf_counter()
                loss = score.losses(one).mean()
                loss.backward()  # type: ignore[no-untyped-call]
                middle = time.perf_counter()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                spent += share * (middle - began)
                stepped += share * (time.perf_counter() - middle)
            if rounds:  # the first one prepares kernels
                reached, moved = reached + spent, moved + stepped
            rounds += 1
    n = rounds - 1
    return Speed(n * one.n_tokens / reached, moved / n, memory.peak_bytes)
