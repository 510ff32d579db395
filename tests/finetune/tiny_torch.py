"""Tiny models of transformers with random weights, made here: no file, no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 211, "max_position_embeddings": 256,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16,
               "attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "qwen3": {"head_dim": 16},
    "phi3": {"pad_token_id": 0, "sliding_window": None},
    "mistral": {"sliding_window": None},
}  # fmt: skip


def tiny(model_type: str = "llama", seed: int = 0, **changed: Any) -> Any:
    """A ...ForCausalLM in evaluation mode, its weights drawn with `seed`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {**SIZES, **MORE.get(model_type, {}), **changed}
    config = AutoConfig.for_model(model_type, **values)
    torch.manual_seed(seed)
    module = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():  # transformers begins near zero: logits would say nothing
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return module.eval()


@dataclass(frozen=True)
class Row:
    """An example: token ids, and which count."""

    ids: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any]


def rows(n: int, *, seed: int = 0, shortest: int = 5, longest: int = 24) -> list[Row]:
    """`n` examples of random tokens; the second half of each counts."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        length = int(random.integers(shortest, longest + 1))
        mask = np.arange(length) >= length // 2
        ids = random.integers(0, SIZES["vocab_size"], length).astype(np.int32)
        found.append(Row(ids, mask))
    return found
