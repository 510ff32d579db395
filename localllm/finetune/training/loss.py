"""Cross-entropy that never holds the logits: block by block, the gradient on the way.

The logits of one token at a vocabulary of 262k take a megabyte, and a framework's loss holds
several copies of all of them. Here only the positions that are predicted get logits, for some
thousand words at a time in one buffer that stays in the processor's cache, and what is kept for
the backward pass is the gradient in the hidden state (a few kilobytes a token):

    d nll_i / d h_i = softmax(z_i) W - W[target_i],     z_i = W h_i

Both the softmax's sum and its product with W run along under the highest logit seen so far, as
flash attention does it (Dao et al. 2022): when a higher one comes, what was summed is made
smaller. So each block of W is needed once, which matters where it is quantized.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

BUFFER_BYTES = 8 << 20  # of logits at once: they are gone over several times, in the CPU's cache
DEVICE_BUFFER_BYTES = 128 << 20  # on a GPU: few large products
_LEAST_COLUMNS = 512  # under which products of matrices are slow


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
    outer part where `softcap` is None. Products are computed in `dtype`, sums in float32."""

    blocks: Blocks
    scale: float = 1.0
    softcap: float | None = None
    dtype: torch.dtype = torch.float32

    @property
    def n_vocab(self) -> int:
        return self.blocks.n_rows

    def columns(self, n: int, buffer_bytes: int = BUFFER_BYTES) -> int:
        """For how many words the logits of `n` positions are computed at once."""
        copies = 1 if self.softcap is None else 2
        fit = buffer_bytes // (4 * copies * max(1, n))
        return min(self.n_vocab, max(_LEAST_COLUMNS, fit))


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
        with torch.no_grad():
            found = _summed(hidden, targets, head, with_slope=wants_hidden)
        ctx.head, ctx.wants_weight = head, wants_weight
        kept = (hidden, targets, found.log_total) if wants_weight else (found.slope,)
        ctx.save_for_backward(*kept)
        return found.log_total - found.at_target

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        if not ctx.wants_weight:
            (slope,) = ctx.saved_tensors
            return None if slope is None else slope * grad[:, None], None, None, None
        hidden, targets, log_total = ctx.saved_tensors
        return *_both_gradients(hidden, targets, log_total, grad, ctx.head), None, None


@dataclass(frozen=True)
class _Sums:
    """Of each position [n]: the logarithm of the sum of all exp(logit), the target's logit, and
    d loss / d hidden [n, n_embd] where it was wanted."""

    log_total: Tensor
    at_target: Tensor
    slope: Tensor | None


def _summed(hidden: Tensor, targets: Tensor, head: Head, *, with_slope: bool) -> _Sums:
    n = len(targets)
    highest = hidden.new_full((n,), -torch.inf)
    total, at_target = hidden.new_zeros(n), hidden.new_zeros(n)
    cap_slope = hidden.new_ones(n)
    slope = torch.zeros_like(hidden) if with_slope else None
    for part in _logits(hidden, head):
        at_target = part.at(targets, part.logits, at_target)
        if part.cap_slope is not None:
            cap_slope = part.at(targets, part.cap_slope, cap_slope)
        higher = torch.maximum(highest, part.logits.amax(dim=1))
        shrunk = (highest - higher).exp_()
        shares = part.logits.sub_(higher[:, None]).exp_()
        total.mul_(shrunk).add_(shares.sum(dim=1))
        highest = higher
        if slope is not None:
            slope.mul_(shrunk[:, None])
            _add_product(slope, part.capped(shares), part.rows)
    if slope is not None:
        right = head.blocks.rows(targets).to(slope.dtype) * cap_slope[:, None]
        slope.div_(total[:, None]).sub_(right).mul_(head.scale)
    return _Sums(total.log_().add_(highest), at_target, slope)


def _both_gradients(
    hidden: Tensor, targets: Tensor, log_total: Tensor, grad: Tensor, head: Head
) -> tuple[Tensor, Tensor]:
    """Of sum_i grad_i loss_i: in the hidden states and in the head's matrix, which is dense."""
    assert isinstance(head.blocks, DenseBlocks)
    weight = head.blocks.weight
    into_hidden, into_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
    cap_slope = hidden.new_ones(len(targets))
    scaled = hidden * head.scale
    for part in _logits(hidden, head):
        if part.cap_slope is not None:
            cap_slope = part.at(targets, part.cap_slope, cap_slope)
        shares = part.capped(part.logits.sub_(log_total[:, None]).exp_()).mul_(grad[:, None])
        _add_product(into_hidden, shares, part.rows)
        _add_product(into_weight[part.first : part.end], shares.t(), scaled.to(part.rows.dtype))
    right = (grad * cap_slope)[:, None]
    into_hidden.sub_(weight.index_select(0, targets) * right).mul_(head.scale)
    into_weight.index_add_(0, targets, (scaled * right).to(weight.dtype), alpha=-1)
    return into_hidden, into_weight


@dataclass(frozen=True)
class _Part:
    """The logits [n, words] of the words `first` to `end`, whose rows of the matrix are `rows`.
    `cap_slope` is the softcap's derivative there. The next part overwrites them."""

    first: int
    end: int
    rows: Tensor
    logits: Tensor
    cap_slope: Tensor | None

    def at(self, targets: Tensor, values: Tensor, before: Tensor) -> Tensor:
        """`values` [n, words] in the targets' columns, and `before` [n] for those that are not
        here. Without asking which: a GPU would be waited for."""
        is_here = (targets >= self.first) & (targets < self.end)
        places = (targets - self.first).clamp_(0, self.end - self.first - 1)
        return torch.where(is_here, values.gather(1, places[:, None]).squeeze(1), before)

    def capped(self, shares: Tensor) -> Tensor:
        return shares if self.cap_slope is None else shares.mul_(self.cap_slope)


def _logits(hidden: Tensor, head: Head) -> Iterator[_Part]:
    n = len(hidden)
    if not n:
        return
    columns = head.columns(n, BUFFER_BYTES if hidden.device.type == "cpu" else DEVICE_BUFFER_BYTES)
    buffer = hidden.new_empty(n * columns, dtype=torch.float32)
    scaled = (hidden if head.scale == 1.0 else hidden * head.scale).to(head.dtype)
    for first, end, block in head.blocks():
        for begin in range(first, end, columns):
            stop = min(begin + columns, end)
            rows = block[begin - first : stop - first].to(head.dtype)
            logits = buffer[: n * (stop - begin)].view(n, stop - begin)
            if head.dtype == torch.float32:
                torch.mm(scaled, rows.t(), out=logits)
            else:
                logits.copy_(scaled @ rows.t())
            slope = None
            if head.softcap is not None:
                logits.div_(head.softcap).tanh_()
                slope = logits.square().neg_().add_(1.0)
                logits.mul_(head.softcap)
            yield _Part(begin, stop, rows, logits, slope)


def _add_product(into: Tensor, left: Tensor, right: Tensor) -> None:
    """into += left right, the product in the type of `right`."""
    if right.dtype == into.dtype:
        into.addmm_(left, right)
    else:
        into.add_(left.to(right.dtype) @ right)
