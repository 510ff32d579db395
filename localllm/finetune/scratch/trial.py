"""How fast this machine trains a shape: some steps on random tokens, before anything is decided."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from localllm.finetune.data.rows import RowAt
from localllm.finetune.data.store import Example
from localllm.finetune.scratch.model import begin, optimizer_of
from localllm.finetune.scratch.recipe import TrainRecipe
from localllm.finetune.scratch.shape import Shape
from localllm.finetune.training.batches import pack
from localllm.finetune.training.forward import scorer
from localllm.finetune.training.memory import PeakMemory

_TRIAL_S = 4.0
_LEAST = 2  # steps


@dataclass(frozen=True)
class Speed:
    """Tokens a second forward, back and through the optimizer; resident memory at its highest."""

    tokens_per_s: float
    peak_bytes: int


def try_shape(shape: Shape, recipe: TrainRecipe, precision: str, pack_tokens: int) -> Speed:
    """Some seconds of training: the mean, since the run will share the machine just so."""
    module = begin(shape, 0)
    module.train()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    score, optimizer = scorer(module, dtype), optimizer_of(module, recipe, 0.0)
    draw = np.random.default_rng(0)
    n_rows = max(1, pack_tokens // shape.context)
    mask = np.arange(shape.context + 1) > 0
    size, at = shape.context + 1, RowAt("", 0)
    drawn = draw.integers(0, shape.n_vocab, (n_rows, size)).astype(np.int32)
    one = pack([[Example(ids, mask, at)] for ids in drawn], range(n_rows))
    times: list[float] = []
    with PeakMemory() as memory:
        for n in range(100):
            began = time.perf_counter()
            loss = score.losses(one).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if n:  # the first one prepares kernels
                times.append(time.perf_counter() - began)
            if len(times) >= _LEAST and sum(times) > _TRIAL_S:
                break
    return Speed(len(times) * one.n_tokens / sum(times), memory.peak_bytes)
