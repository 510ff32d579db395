"""The loss of a model that is trained whole, with its gradient made on the way.

`training.loss` makes the logits once more for the gradient of the output matrix, since it does not
know what each token's loss will count for. Where all count the same, that is a factor, and the
logits are needed once: of some thousand tokens at a time, since a small vocabulary's fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from localllm.finetune.training.loss import DenseBlocks, Head, token_losses

BUFFER_BYTES = 16 << 20  # of logits at once


def last_losses(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """As `token_losses` of a dense head without scale and cap. What backward is given should be
    the same for each token; anything else is right too, and slower."""
    assert isinstance(head.blocks, DenseBlocks) and head.scale == 1.0 and head.softcap is None
    weight = head.blocks.weight
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return token_losses(hidden, targets, head)
    found: Tensor = _Losses.apply(hidden, weight, targets, head)  # type: ignore[no-untyped-call]
    return found


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
        n = len(targets)
        losses, into_hidden = hidden.new_empty(n), torch.empty_like(hidden)
        into_weight = torch.zeros_like(weight)
        words, states = weight.to(head.dtype), hidden.to(head.dtype)
        rows = min(n, max(1, BUFFER_BYTES // (4 * len(weight))))
        buffer = hidden.new_empty(rows, len(weight), dtype=torch.float32)
        minus = buffer.new_full((rows, 1), -1.0)
        for first in range(0, n, max(1, rows)):
            here, wanted = states[first : first + rows], targets[first : first + rows, None]
            logits = here @ words.t()
            highest = logits.amax(1, keepdim=True)
            shares = torch.sub(logits, highest, out=buffer[: len(here)]).exp_()
            total = shares.sum(1, keepdim=True)
            said = logits.gather(1, wanted).float() - highest
            losses[first : first + rows] = (total.log() - said).squeeze(1)
            shares.div_(total).scatter_add_(1, wanted, minus[: len(here)])
            slopes = shares.to(head.dtype)
            into_hidden[first : first + rows] = slopes @ words
            into_weight += slopes.t() @ here
        ctx.save_for_backward(hidden, weight, targets, into_hidden, into_weight)
        ctx.head = head
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, targets, into_hidden, into_weight = ctx.saved_tensors
        (grad,) = grads
        if not len(grad):
            return into_hidden, into_weight, None, None
        if bool((grad == grad[0]).all()):
            return into_hidden * grad[0], into_weight * grad[0], None, None
        with torch.enable_grad():
            h, w = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
            again = token_losses(h, targets, Head(DenseBlocks(w), dtype=ctx.head.dtype))
            left, right = torch.autograd.grad(again, (h, w), grad)
        return left, right, None, None
