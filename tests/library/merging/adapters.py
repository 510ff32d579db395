"""LoRA adapters with numbers that the test knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.gguf_writer import F32, U32, Arr
from tests.support.tiny_builder import TinyModel


def write_lora(
    path: Path,
    pairs: Mapping[str, tuple[Any, Any]],
    *,
    alpha: float | None = None,
    arch: str = "llama",
    dtype: str = "F32",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """`pairs`: tensor -> (lora_a, lora_b) in numpy's order, A [r, in], B [out, r]."""
    keys: dict[str, Any] = {
        "general.type": "adapter",
        "general.architecture": arch,
        "general.name": "made",
        "adapter.type": "lora",
    }
    if alpha is not None:
        keys["adapter.lora.alpha"] = F32(alpha)
    model = TinyModel(keys | dict(metadata or {}), "F32", 0)
    for tensor, (a, b) in pairs.items():
        model.add(f"{tensor}.lora_a", np.asarray(a, np.float32), dtype)
        model.add(f"{tensor}.lora_b", np.asarray(b, np.float32), dtype)
    return model.write(path)


def random_pair(
    seed: int, n_in: int, n_out: int, rank: int = 4, size: float = 0.05
) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((rank, n_in)).astype(np.float32)
    b = (rng.standard_normal((n_out, rank)) * size).astype(np.float32)
    return a, b


__all__ = ["U32", "Arr", "random_pair", "write_lora"]
