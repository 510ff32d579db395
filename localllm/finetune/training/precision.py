"""Which number format this processor multiplies fastest: tried, not assumed.

bfloat16 halves what is read, but without matrix units (AMX, or AVX-512 BF16 that the library
uses) it is converted back and forth and slower. Half a second tells.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

# bf16 rounds activations to 8 bits of mantissa: it has to be worth it.
_WORTH = 1.25
_ROWS = 512
_TRIAL_S = 0.3
_LEAST = 4


@dataclass(frozen=True)
class PrecisionTrial:
    """Products of one layer's size a second, in units of 1e9 floating point operations."""

    f32_gflops: float
    bf16_gflops: float

    @property
    def best(self) -> Literal["f32", "bf16"]:
        return "bf16" if self.bf16_gflops > _WORTH * self.f32_gflops else "f32"


@cache
def try_precisions(n_in: int, n_out: int) -> PrecisionTrial:
    """Time a linear layer forward with its weights in f32, and as autocast runs it in bf16."""
    x, weight = torch.randn(_ROWS, n_in), torch.randn(n_out, n_in)
    best = [math.inf, math.inf]
    n, end = 0, time.perf_counter() + _TRIAL_S
    while n < _LEAST or time.perf_counter() < end:  # in turn: a busy moment is busy for both
        for i, kind in enumerate((torch.float32, torch.bfloat16)):
            seconds = _seconds(x, weight, kind)
            if n:  # the first call prepares kernels
                best[i] = min(best[i], seconds)
        n += 1
    return PrecisionTrial(*(2e-9 * _ROWS * n_in * n_out / seconds for seconds in best))


def _seconds(x: torch.Tensor, weight: torch.Tensor, kind: torch.dtype) -> float:
    with torch.no_grad(), torch.autocast("cpu", kind, enabled=kind != torch.float32):
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        return time.perf_counter() - began
