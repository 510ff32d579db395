"""llama.cpp's logits and torch's, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from localllm.engine.adapter import Attached, LoraAdapter, attach
from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions


def tokens(n: int, n_vocab: int = 290, seed: int = 0) -> list[int]:
    return [int(one) for one in np.random.default_rng(seed).integers(0, n_vocab, n)]


def llama_logits(
    path: Path,
    ids: Sequence[int],
    adapter: Path | None = None,
    scale: float = 1.0,
    keep: Sequence[int] | None = None,
    n_threads: int = 1,
) -> np.ndarray:
    """Rows (n, n_vocab), all or those of `keep`, with a cache in full precision and plain
    attention."""
    n, kept = len(ids), range(len(ids)) if keep is None else keep
    options = ContextOptions(
        n_ctx=n + 8,
        n_batch=n + 8,
        n_ubatch=n + 8,
        n_threads=n_threads,
        type_k="f32",
        type_v="f32",
        flash_attn="off",
    )
    with Model.load(path) as model, Context(model, options) as context, TokenBatch(n) as batch:
        if adapter is not None:
            attach(context, [Attached(LoraAdapter(model, adapter), scale)])
        for position, token in enumerate(ids):
            batch.add(token, position, 0, output=position in kept)
        context.decode(batch.native)
        return np.stack([context.logits(i).copy() for i in kept])


def torch_logits(module: Any, ids: Sequence[int], keep: Sequence[int] | None = None) -> np.ndarray:
    kept = 0 if keep is None else torch.tensor(list(keep))
    with torch.no_grad():
        found = module(
            input_ids=torch.tensor([list(ids)]), use_cache=False, logits_to_keep=kept
        ).logits[0]
    return found.float().numpy()


def mean_kl(base: np.ndarray, other: np.ndarray) -> float:
    """Mean divergence of `other` from `base` over the rows, in nats."""
    p, q = (x.astype(np.float64) - x.max(-1, keepdims=True) for x in (base, other))
    p -= np.log(np.exp(p).sum(-1, keepdims=True))
    q -= np.log(np.exp(q).sum(-1, keepdims=True))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def entropy(logits: np.ndarray) -> float:
    """Mean entropy of the rows in nats: neither 0 nor a uniform distribution's."""
    p = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    p -= np.log(np.exp(p).sum(-1, keepdims=True))
    return float(-(np.exp(p) * p).sum(-1).mean())
