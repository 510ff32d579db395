"""Which number format this processor or GPU multiplies fastest: tried, not assumed.

bfloat16 halves what is read, but without matrix units (AMX, or AVX-512 BF16 that the library
uses; tensor cores since Ampere) it is converted back and forth and slower. Half a second tells.
float16 is for GPUs whose matrix units know nothing else: its range is small, so that losses are
scaled (see `scaling`), and where bfloat16 is about as fast it is not taken.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from localllm.finetune.training.device import synchronize
from localllm.finetune.training.forward import autocast

Format = Literal["f32", "bf16", "f16"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

# bf16 rounds activations to 8 bits of mantissa: it has to be worth it.
_WORTH = 1.25
_ROWS = 512
_DEVICE_ROWS = 4096
_TRIAL_S = 0.3
_LEAST = 4


@dataclass(frozen=True)
class PrecisionTrial:
    """Products of one layer's size a second, in units of 1e9 floating point operations."""

    f32_gflops: float
    bf16_gflops: float
    f16_gflops: float | None = None  # tried on GPUs only

    @property
    def best(self) -> Format:
        f16 = self.f16_gflops or 0.0
        if f16 > _WORTH * max(self.f32_gflops, self.bf16_gflops):
            return "f16"
        return "bf16" if self.bf16_gflops > _WORTH * self.f32_gflops else "f32"


@cache
def try_precisions(n_in: int, n_out: int, device: str = "cpu") -> PrecisionTrial:
    """Time a linear layer forward with its weights in f32, and as autocast runs it in bf16 (on a
    GPU, whose frozen weights are held so: with weights in the format)."""
    there = torch.device(device)
    kinds = (torch.float32, torch.bfloat16, torch.float16)[: 2 if there.type == "cpu" else 3]
    n_rows = _ROWS if there.type == "cpu" else _DEVICE_ROWS
    x, weight = torch.randn(n_rows, n_in, device=there), torch.randn(n_out, n_in, device=there)
    best = [math.inf] * len(kinds)
    n, end = 0, time.perf_counter() + _TRIAL_S
    while n < _LEAST or time.perf_counter() < end:  # in turn: a busy moment is busy for both
        for i, kind in enumerate(kinds):
            held = weight if there.type == "cpu" else weight.to(kind)
            seconds = _seconds(x, held, kind)
            if n:  # the first call prepares kernels
                best[i] = min(best[i], seconds)
        n += 1
    return PrecisionTrial(*(2e-9 * n_rows * n_in * n_out / seconds for seconds in best))


def _seconds(x: torch.Tensor, weight: torch.Tensor, kind: torch.dtype) -> float:
    with torch.no_grad(), autocast(x.device, kind):
        synchronize(x.device)
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        synchronize(x.device)
        return time.perf_counter() - began
