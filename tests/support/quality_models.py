"""A base, candidates made from it, and a text to judge them by; all tiny."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.tiny_models import llama_model, tiny_llama

_WORDS = "the cat and the dog saw hello world in a garden of forms; café, naïve, 東京 at night.\n"
# tests/engine/data/llama_perplexity_tiny.txt was measured on this text and these models
TEXT = "".join(f"{i * i % 97} {_WORDS[i % 40 :]}" for i in range(60))
_SEED = 5


def base_model(path: Path) -> Path:
    return tiny_llama(path, seed=_SEED, dtype="F16")


def candidate(path: Path, dtype: str = "Q4_0") -> Path:
    """The weights of `base_model`, quantized."""
    return tiny_llama(path, seed=_SEED, dtype=dtype)


def broken(path: Path) -> Path:
    """The same with a weight that is no number."""
    model = llama_model(seed=_SEED)
    for i, (tensor, data) in enumerate(model.tensors):
        if tensor.name == "output_norm.weight":
            values = np.frombuffer(data, np.float32).copy()
            values[3] = np.nan
            model.tensors[i] = (tensor, values.tobytes())
    return model.write(path)
