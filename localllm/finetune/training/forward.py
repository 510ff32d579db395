"""From a pack of examples to the loss of each predicted token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from localllm.finetune.model.quantized import FrozenRows
from localllm.finetune.training.attention import use_packed_attention
from localllm.finetune.training.batches import Pack
from localllm.finetune.training.device import of_module
from localllm.finetune.training.loss import Blocks, DenseBlocks, Head, token_losses


@dataclass(frozen=True)
class Scorer:
    """A model's body and head, on `device`. `dtype` bfloat16 or float16 computes the body's
    products in it; the head has its own."""

    body: Any  # transformers' model without the head: token ids in, hidden states out
    head: Head
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default=torch.device("cpu"), kw_only=True)

    def losses(self, pack: Pack) -> Tensor:
        """Negative log-likelihood [n] of the pack's targets, in nats, differentiable."""
        pack = pack.to(self.device)
        with autocast(self.device, self.dtype):
            out = self.body(
                input_ids=pack.ids,
                position_ids=pack.positions,
                use_cache=False,
                segments=pack.segments,
            )
        hidden = out.last_hidden_state[0].index_select(0, pack.rows)
        return token_losses(hidden.float(), pack.targets, self.head)

    def lend(self) -> None:
        """Nothing: this process has all it needs, and so have the others."""

    def rest(self) -> None:
        """Nothing: no part of the model is anywhere else."""


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Products in `dtype`, on `device`; nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def scorer(module: Any, dtype: torch.dtype = torch.float32) -> Scorer:
    """The scorer of a transformers ...ForCausalLM, which is set up for packs by this."""
    use_packed_attention(module)
    device = of_module(module)
    config = module.config.get_text_config()
    divisor = float(getattr(config, "logits_scaling", 1.0) or 1.0)  # Granite
    factor = float(getattr(config, "logit_scale", 1.0) or 1.0)  # Cohere
    softcap = getattr(config, "final_logit_softcapping", None)
    head = Head(
        blocks=_blocks(module.get_output_embeddings(), device),
        scale=factor / divisor,
        softcap=None if softcap is None else float(softcap),
        dtype=dtype,
    )
    return Scorer(module.get_decoder(), head, dtype, device=device)


@dataclass(frozen=True)
class QuantizedBlocks:
    """The rows of a layer that stays in its file's bytes: made into numbers block by block."""

    stored: FrozenRows
    like: Tensor  # of the type that is computed in, where it is

    @property
    def n_rows(self) -> int:
        return int(self.stored.shape[0])

    def __call__(self) -> Iterator[tuple[int, int, Tensor]]:
        for first, end in self.stored.spans():
            yield first, end, self.stored.borrow(first, end, self.like)

    def rows(self, ids: Tensor) -> Tensor:
        return self.stored.pick(ids).to(self.like)


def _blocks(output: Any, device: torch.device) -> Blocks:
    stored = getattr(output, "rows", None)
    if isinstance(stored, FrozenRows):
        return QuantizedBlocks(stored, torch.empty(0, device=device))
    return DenseBlocks(output.weight)
