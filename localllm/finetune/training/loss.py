"""Cross-entropy that never holds all logits: chunk by chunk, the gradient computed on the way.

The logits of one token at a vocabulary of 262k take a megabyte, and a framework's loss holds
several copies of all of them. Here only the positions that are predicted get logits, some
rows at a time in one buffer, and what is kept for the backward pass is the gradient in the
hidden state (a few kilobytes a token):

    d nll_i / d h_i = softmax(z_i) W - W[target_i],     z_i = W h_i

The softmax is never normalized: both factors of that product are computed from exp(z - max) and
divided afterwards, which saves two passes over the buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

# Of logits at once. Larger ones are no faster with two cores, smaller ones are below 64 rows.
BUFFER_BYTES = 128 << 20
_LEAST_ROWS = 16


class Blocks(Protocol):
    """An output matrix that is handed out in blocks of rows, so that a quantized one is never
    whole in memory."""

    @property
    def n_rows(self) -> int: ...

    def __call__(self) -> Iterator[tuple[int, int, Tensor]]:
        """(first row, end, those rows [n, n_embd]), in order, all rows."""

    def rows(self, ids: Tensor) -> Tensor:
        """The rows of `ids` [n, n_embd]."""


@dataclass(frozen=True)
class Head:
    """How hidden states become logits: `softcap * tanh(scale * W h / softcap)`, without the
    outer part where `softcap` is None."""

    blocks: Blocks
    scale: float = 1.0
    softcap: float | None = None

    @property
    def n_vocab(self) -> int:
        return self.blocks.n_rows

    def n_rows(self, wanted: int) -> int:
        """How many positions are computed at once."""
        copies = 1 if self.softcap is None else 2
        fit = BUFFER_BYTES // (4 * copies * self.n_vocab)
        return max(1, min(wanted, max(_LEAST_ROWS, fit)))


@dataclass(frozen=True)
class DenseBlocks:
    """A matrix that is in memory as it is."""

    weight: Tensor

    @property
    def n_rows(self) -> int:
        return int(self.weight.shape[0])

    def __call__(self) -> Iterator[tuple[int, int, Tensor]]:
        yield 0, self.n_rows, self.weight

    def rows(self, ids: Tensor) -> Tensor:
        return self.weight.index_select(0, ids)


def token_losses(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Negative log-likelihood [n] of `targets` [n] after `hidden` [n, n_embd], in nats.

    Differentiable in `hidden`, and in the head's matrix where it is dense and wants a gradient
    (it is then computed in the backward pass, from logits made once more).
    """
    weight = head.blocks.weight if isinstance(head.blocks, DenseBlocks) else None
    found: Tensor = _TokenLosses.apply(hidden, weight, targets, head)  # type: ignore[no-untyped-call]
    return found


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor | None, targets: Tensor, head: Head
    ) -> Tensor:
        wants_weight = weight is not None and weight.requires_grad
        wants_hidden = hidden.requires_grad and not wants_weight
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if wants_hidden else None
        with torch.no_grad():
            for rows, part in _chunks(hidden, targets, head):
                losses[rows] = part.loss
                if slopes is not None:
                    slopes[rows] = part.slope(head)
        ctx.head, ctx.wants_weight = head, wants_weight
        ctx.save_for_backward(*((hidden, targets) if wants_weight else (slopes,)))
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        if not ctx.wants_weight:
            (slopes,) = ctx.saved_tensors
            return None if slopes is None else slopes * grad[:, None], None, None, None
        hidden, targets = ctx.saved_tensors
        into_hidden = torch.empty_like(hidden)
        into_weight = torch.zeros_like(ctx.head.blocks.weight)
        for rows, part in _chunks(hidden, targets, ctx.head):
            into_hidden[rows] = part.slope(ctx.head) * grad[rows, None]
            part.add_to_weight(into_weight, grad[rows], ctx.head)
        return into_hidden, into_weight, None, None


@dataclass
class _Chunk:
    """Some rows: `shares` is exp(logit - max), times the slope of the softcap where there is
    one, and `total` the sum that makes it a distribution."""

    hidden: Tensor
    targets: Tensor
    shares: Tensor
    total: Tensor
    loss: Tensor
    slope_at_target: Tensor | None  # of the softcap

    def slope(self, head: Head) -> Tensor:
        """d loss / d hidden."""
        found = torch.zeros_like(self.hidden)
        for first, end, rows in head.blocks():
            found.addmm_(self.shares[:, first:end].to(rows.dtype), rows)
        found /= self.total[:, None]
        right = head.blocks.rows(self.targets).to(found.dtype)
        if self.slope_at_target is not None:
            right = right * self.slope_at_target[:, None]
        found -= right
        return found if head.scale == 1.0 else found * head.scale

    def add_to_weight(self, into: Tensor, grad: Tensor, head: Head) -> None:
        """Add sum_i grad_i d loss_i / d W."""
        weighted = self.hidden * (grad * head.scale)[:, None]
        into.addmm_(self.shares.t(), weighted / self.total[:, None])
        if self.slope_at_target is not None:
            weighted = weighted * self.slope_at_target[:, None]
        into.index_add_(0, self.targets, weighted, alpha=-1)


def _chunks(hidden: Tensor, targets: Tensor, head: Head) -> Iterator[tuple[slice, _Chunk]]:
    """The rows in chunks of about equal size. A chunk's tensors are overwritten by the next's."""
    n = len(targets)
    if not n:
        return
    size = head.n_rows(n)
    size = -(-n // -(-n // size))
    buffer = torch.empty(size, head.n_vocab, dtype=torch.float32, device=hidden.device)
    for begin in range(0, n, size):
        rows = slice(begin, min(n, begin + size))
        yield rows, _computed(hidden[rows], targets[rows], head, buffer)


def _computed(hidden: Tensor, targets: Tensor, head: Head, buffer: Tensor) -> _Chunk:
    logits = buffer[: len(targets)]
    scaled = hidden if head.scale == 1.0 else hidden * head.scale
    for first, end, rows in head.blocks():
        if rows.dtype == torch.float32:
            torch.mm(scaled, rows.t(), out=logits[:, first:end])
        else:
            logits[:, first:end] = torch.mm(scaled.to(rows.dtype), rows.t())
    slopes = None
    if head.softcap is not None:
        logits.div_(head.softcap).tanh_()
        slopes = logits.square().neg_().add_(1.0)
        logits.mul_(head.softcap)
    highest = logits.amax(dim=1)
    at_target = logits.gather(1, targets[:, None]).squeeze(1)
    shares = logits.sub_(highest[:, None]).exp_()
    total = shares.sum(dim=1)
    loss = total.log() + highest - at_target
    right = None
    if slopes is not None:
        right = slopes.gather(1, targets[:, None]).squeeze(1)
        shares.mul_(slopes)
    return _Chunk(hidden, targets, shares, total, loss, right)
