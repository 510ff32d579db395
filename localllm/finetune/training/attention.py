"""Attention over several examples laid one after the other, each seeing only itself.

Transformers would make a mask of all tokens against all and compute what it then hides. Here
each example is a causal attention of its own over its slice: no padding, no mask, and the work
of an example does not grow with its neighbours. Positions restart at 0 in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "localllm_packed"


def use_packed_attention(module: Any) -> None:
    """Let `module` (transformers' ...ForCausalLM) compute attention with `packed_attention`.

    It then wants `segments`, the lengths of the examples in order, as a keyword of its forward.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    module.set_attn_implementation(NAME)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: Sequence[int] = (),
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface. query [1, heads, tokens, head size], key and value the
    same with fewer heads; the result is [1, tokens, heads, head size].

    `sliding_window` is how many tokens one sees, itself included; `softcap` bounds the scores
    (Gemma 2). Dropout of attention is not supported: models are tuned without.
    """
    # under autocast a rotation in float32 makes q and k float32 again, v stays as it was multiplied
    query, key = query.to(value.dtype), key.to(value.dtype)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    dtype = query.dtype
    if dtype == torch.bfloat16 and query.device.type == "cpu":
        # for bfloat16 oneDNN makes a kernel for every length that it meets, and keeps it: half a
        # gigabyte after 60 steps of varied lengths (measured), most of the time spent making them
        query, key, value = query.float(), key.float(), value.float()
    lengths = list(segments) or [query.shape[2]]
    with torch.autocast(query.device.type, enabled=False):
        parts = [
            _one(q, k, v, scale, sliding_window, softcap)
            for q, k, v in zip(
                *(torch.split(one, lengths, 2) for one in (query, key, value)), strict=True
            )
        ]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return whole.to(dtype).transpose(1, 2).contiguous(), None


def _one(
    query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None,
    softcap: float | None,
) -> Tensor:  # fmt: skip
    length = query.shape[2]
    seen = None if window is None or length <= window else _band(length, window, query.device)
    if softcap is not None:
        return _softcapped(query, key, value, scale, seen, softcap)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=seen, is_causal=seen is None, scale=scale
    )


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Who sees whom: [length, length], true where it does."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
    return seen.triu_(1 - window)


def _softcapped(
    query: Tensor, key: Tensor, value: Tensor, scale: float, seen: Tensor | None, softcap: float
) -> Tensor:
    scores = torch.tanh(query @ key.transpose(2, 3) * (scale / softcap)) * softcap
    if seen is None:
        seen = _band(query.shape[2], query.shape[2], query.device)
    scores = scores.masked_fill(~seen, float("-inf"))
    return scores.softmax(dim=-1).to(value.dtype) @ value
