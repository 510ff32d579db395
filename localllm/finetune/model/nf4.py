"""Frozen weights in NF4, as QLoRA has them: bitsandbytes' 4-bit NormalFloat.

Blocks of 64 numbers with a scale each, the scales in 8 bits of their own (double quantization,
Dettmers et al. 2023, section 3): 4.13 bits a weight. Packed where they are to lie, by
bitsandbytes' kernels of that device (CPU, CUDA and others), made into numbers again for each
product, forward and back.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from localllm.finetune.model.quantized import FrozenRows
from localllm.finetune.model.stored import Stored
from localllm.formats.hf import Layout

BLOCK = 64
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # what it lacks is not for the user


class Nf4Rows(FrozenRows):
    """A matrix (n_rows, n_per_row) in NF4, on `device`. What it was in the file is let go of."""

    def __init__(self, stored: Stored, layout: Layout, device: torch.device) -> None:
        from bitsandbytes.functional import quantize_4bit

        super().__init__(stored, layout)
        numbers = torch.from_numpy(layout.to_hf(stored.numbers())).to(device)
        self.packed: torch.Tensor
        self._state: Any
        self.packed, self._state = quantize_4bit(
            numbers, blocksize=BLOCK, quant_type="nf4", compress_statistics=True
        )
        self.device = self.packed.device
        self.block = stored.shape[0]  # scales are not by rows: all of it at once

    def take(self, start: int, stop: int, out: np.ndarray[Any, Any] | None = None) -> torch.Tensor:
        """Rows `start` to `stop` as float32, where the matrix lies."""
        return self._numbers(torch.float32)[start:stop]

    def pick(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of these numbers (n), as float32."""
        return self._numbers(torch.float32).index_select(0, rows)

    def borrow(self, start: int, stop: int, like: torch.Tensor) -> torch.Tensor:
        """Rows in the type of `like`, which is on the same device."""
        return self._numbers(like.dtype)[start:stop]

    def _numbers(self, dtype: torch.dtype) -> torch.Tensor:
        from bitsandbytes.functional import dequantize_4bit

        self._state.dtype = dtype  # what it gives back
        found: torch.Tensor = dequantize_4bit(self.packed, self._state)
        return found
