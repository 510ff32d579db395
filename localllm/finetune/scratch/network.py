"""A Llama's forward pass as training from scratch wants it: the same numbers in less time.

transformers' own takes every norm, rotation and gate through some ten passes over memory, and a
model this small waits for them longer than for its products. Here each is one function with its
own gradient, and the output matrix's gradient is made along with the loss, where its logits are.
The weights stay transformers' module's: what is learned here is written and loaded as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout, embedding, linear, scaled_dot_product_attention, silu

from localllm.finetune.scratch.ending import last_losses
from localllm.finetune.training.batches import Pack
from localllm.finetune.training.forward import Scorer
from localllm.finetune.training.loss import DenseBlocks, Head


@dataclass(frozen=True)
class Network(Scorer):
    """A LlamaForCausalLM's `body` and `head`, computed in `dtype`; norms, attention's scores and
    sums in float32. `dropout` of what each part adds, while the module trains."""

    dropout: float = 0.0
    reach: Callable[[], int | None] = lambda: None  # tokens that see each other while it trains

    def losses(self, pack: Pack) -> Tensor:
        """Negative log-likelihood [n] of the pack's targets, in nats, differentiable where all
        of them count the same."""
        return last_losses(self.hidden(pack).index_select(0, pack.rows), pack.targets, self.head)

    def hidden(self, pack: Pack) -> Tensor:
        """What the head sees, [tokens, width] in float32."""
        body = self.body
        x = self._dropped(embedding(pack.ids[0], body.embed_tokens.weight))
        turn = _turns(body.config, pack.positions[0])
        segments = pack.segments
        if body.training and (reach := self.reach()) is not None:
            segments = tuple(part for one in segments for part in _cut(one, reach))
        for layer in body.layers:
            x = x + self._attended(layer, x, turn, segments)
            x = x + self._gated(layer, x)
        return _normed(x, body.norm, torch.float32)

    def _attended(
        self, layer: Any, x: Tensor, turn: tuple[Tensor, Tensor], segments: Sequence[int]
    ) -> Tensor:
        part, size = layer.self_attn, layer.self_attn.head_dim
        h = _normed(x, layer.input_layernorm, self.dtype)
        q, k, v = (
            linear(h, one.weight.to(self.dtype)).view(len(x), -1, size).float()
            for one in (part.q_proj, part.k_proj, part.v_proj)
        )
        seen = _attention(_Turned.apply(q, *turn), _Turned.apply(k, *turn), v, segments)  # type: ignore[no-untyped-call]
        out = linear(seen.to(self.dtype), part.o_proj.weight.to(self.dtype))
        return self._dropped(out.float())

    def _gated(self, layer: Any, x: Tensor) -> Tensor:
        part = layer.mlp
        h = _normed(x, layer.post_attention_layernorm, self.dtype)
        gate, up, down = (
            one.weight.to(self.dtype) for one in (part.gate_proj, part.up_proj, part.down_proj)
        )
        return self._dropped(linear(silu(linear(h, gate)) * linear(h, up), down).float())

    def _dropped(self, x: Tensor) -> Tensor:
        if not self.dropout or not self.body.training:
            return x
        return dropout(x, self.dropout)


def network(
    module: Any, dtype: torch.dtype, dropped: float = 0.0,
    reach: Callable[[], int | None] = lambda: None,
) -> Network:  # fmt: skip
    """The scorer of a LlamaForCausalLM with plain rotary positions and no biases."""
    head = Head(DenseBlocks(module.get_output_embeddings().weight), dtype=dtype)
    return Network(module.get_decoder(), head, dtype, dropped, reach)


def _cut(length: int, reach: int) -> list[int]:
    """A segment in parts of `reach` tokens. Only how far apart tokens are has a say in rotary
    positions, so each part is a text of its own."""
    whole, rest = divmod(length, reach)
    return [reach] * whole + [rest] * bool(rest)


def _turns(config: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [tokens, 1, half a head] of the angles of `positions`."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = positions[:, None].float() * config.rope_parameters["rope_theta"] ** -half
    return angles.cos()[:, None], angles.sin()[:, None]


class _Turned(torch.autograd.Function):
    """Rotary positions of [tokens, heads, head size], the first half of a head against the second
    (as transformers lays Llamas out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    (a, b), (left, right) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=left).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=right).addcmul_(a, sin)
    return out


def _normed(x: Tensor, norm: Any, dtype: torch.dtype) -> Tensor:
    found: Tensor = _Normed.apply(x, norm.weight, norm.variance_epsilon)  # type: ignore[no-untyped-call]
    return found.to(dtype)


class _Normed(torch.autograd.Function):
    """RMSNorm: x / sqrt(mean(x^2) + eps) * weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        shrink = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * shrink
        ctx.save_for_backward(unit, weight, shrink)
        out: Tensor = unit * weight
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, weight, shrink = ctx.saved_tensors
        (grad,) = grads
        along = grad * unit
        into_weight = along.sum(0)
        share = (along @ weight)[:, None].div_(unit.shape[-1])
        return (grad * weight).addcmul_(unit, share, value=-1).mul_(shrink), into_weight, None


def _attention(q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int]) -> Tensor:
    """Each segment sees itself up to where it stands. [tokens, heads, size] with fewer heads in
    `k` and `v`; the result is [tokens, heads * size]. Neighbours of one length are one call."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    parts, begin = [], 0
    for length, run in groupby(segments):
        n = len(list(run))
        q1, k1, v1 = (
            one[begin : begin + n * length].view(n, length, *one.shape[1:]).transpose(1, 2)
            for one in (q, k, v)
        )
        seen = scaled_dot_product_attention(q1, k1, v1, is_causal=True)
        parts.append(seen.transpose(1, 2).reshape(n * length, -1))
        begin += n * length
    return parts[0] if len(parts) == 1 else torch.cat(parts)
