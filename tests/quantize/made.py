"""What the tests of this room share: results, and importance matrices with known numbers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import Done
from tests.support.gguf_writer import U32, Arr, T, header_bytes


def made_path(done: Done) -> Path:
    """The first file of the model a command made."""
    assert done.exit_code == 0, done
    return Path(done.data["model"]["files"][0]["path"])


def importances(source: Path, seed: int = 5) -> dict[str, Any]:
    """A vector for each weight matrix of a GGUF, embedding and output apart."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(seed)
    found = {}
    for tensor in gguf.GGUFReader(source).tensors:
        if len(tensor.shape) > 1 and tensor.name.startswith("blk."):
            n = int(tensor.shape[0]) * (int(tensor.shape[2]) if len(tensor.shape) > 2 else 1)
            found[tensor.name] = rng.uniform(0.1, 4.0, n).astype(np.float32)
    return found


def write_imatrix(
    path: Path, source: Path, *, counts: int = 64, legacy: bool = False
) -> dict[str, Any]:
    """An importance matrix of `source` as llama-imatrix writes it; the vectors as they count."""
    vectors = importances(source)
    if legacy:
        path.write_bytes(_legacy(vectors, counts))
    else:
        path.write_bytes(_gguf(vectors, counts, source))
    return vectors


def _gguf(vectors: Mapping[str, Any], counts: int, source: Path) -> bytes:
    import gguf
    import numpy as np

    experts = {
        t.name: int(t.shape[2]) if len(t.shape) > 2 else 1 for t in gguf.GGUFReader(source).tensors
    }
    tensors, data = [], []
    for name, vector in vectors.items():
        n = experts[name]
        tensors += [
            T(f"{name}.in_sum2", (vector.size // n, n), "F32"),
            T(f"{name}.counts", (1, n), "F32"),
        ]
        data += [vector * np.float32(counts), np.full(n, counts, np.float32)]
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": Arr("str", ["some/where/text.txt"]),
        "imatrix.chunk_count": U32(4),
        "imatrix.chunk_size": U32(16),
    }
    parts = [header_bytes(metadata, tensors)]
    for values in data:
        raw = values.tobytes()
        parts += [raw, bytes(-len(raw) % 32)]
    return b"".join(parts)


def _legacy(vectors: Mapping[str, Any], calls: int) -> bytes:
    import numpy as np

    out = [struct.pack("<i", len(vectors))]
    for name, vector in vectors.items():
        raw = name.encode()
        out += [struct.pack("<i", len(raw)), raw, struct.pack("<ii", calls, vector.size)]
        out.append((vector * np.float32(calls)).tobytes())
    return b"".join([*out, struct.pack("<ii", 4, 8), b"text.txt"])
