"""Tensors of a GGUF as numbers, by the `gguf` package and numpy alone: what the tests compare
with comes from none of the code under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize


def tensors_of(path: Path) -> dict[str, Any]:
    """Every tensor in float32, in numpy's order."""
    return {
        t.name: dequantize(t.data, t.tensor_type).reshape(
            tuple(reversed([int(n) for n in t.shape]))
        )
        for t in gguf.GGUFReader(path).tensors
    }


def types_of(path: Path) -> dict[str, str]:
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def raw_of(path: Path) -> dict[str, bytes]:
    """Every tensor's bytes as stored."""
    return {t.name: np.ascontiguousarray(t.data).tobytes() for t in gguf.GGUFReader(path).tensors}


def fields_of(path: Path) -> dict[str, bytes]:
    """Every key's type and value, as bytes, in file order; GGUFReader's own keys left out."""
    reader = gguf.GGUFReader(path)
    return {
        key: b"".join(np.ascontiguousarray(part).tobytes() for part in field.parts[1:])
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }
