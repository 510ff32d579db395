"""The models that the fixtures were made with, and the fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.tiny_models import tiny_llama, tiny_qwen3moe

FIXTURES = Path(__file__).parent / "fixtures"
TEXT = FIXTURES / "text.txt"
CHUNK_SIZE = 128
_SMALL: dict[str, Any] = {"n_embd": 64, "n_ff": 96, "n_head": 2, "n_head_kv": 1, "dtype": "F32"}


def small_llama(path: Path, **options: Any) -> Path:
    return tiny_llama(path, **{**_SMALL, **options})


def small_moe(path: Path, **options: Any) -> Path:
    return tiny_qwen3moe(path, **{"n_expert": 6, "n_expert_used": 2, **_SMALL, **options})
