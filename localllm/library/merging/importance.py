"""An importance matrix for the tensors that are quantized in a merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem
from localllm.library.growing import digest_of
from localllm.library.merging.lora import EMBEDDING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.formats.gguf import GGUFModel

_ROWS_LOOKED_UP = (EMBEDDING, "per_layer_token_embd.weight")  # llama.cpp ignores these


@dataclass(frozen=True, eq=False)
class Importance:
    """Mean squared activations a tensor: a row of its columns for each matrix of its stack."""

    name: str
    sha256: str
    vectors: Mapping[str, NDArray[np.float32]]

    def of(self, tensor: str, n_per_row: int) -> NDArray[np.float32] | None:
        """[n_matrices, n_per_row], None where the matrix says nothing of it."""
        found = None if tensor in _ROWS_LOOKED_UP else self.vectors.get(tensor)
        return None if found is None else found.reshape(-1, n_per_row)


def read_importance(path: Path, base: GGUFModel) -> Importance:
    """llama.cpp's GGUF imatrix or its older .dat, averaged as llama-quantize does it.

    Raises FileGone, DamagedFile, and UsageProblem where it is of another model.
    """
    from localllm.formats.imatrix import read_imatrix

    found = read_imatrix(path, chunk_size=1)
    vectors = {name: entry.mean(found.legacy) for name, entry in found.entries.items()}
    _check(path.name, vectors, base)
    return Importance(path.name, digest_of(path, lambda n_bytes: None), vectors)


def _check(name: str, vectors: Mapping[str, NDArray[np.float32]], base: GGUFModel) -> None:
    hint = f"localllm imatrix {base.name}"
    for tensor, vector in vectors.items():
        known = base.tensors.get(tensor)
        if known is None:
            raise UsageProblem(f"{name} is of another model: {base.name} has no {tensor}", hint)
        shape = (*known.shape, 1, 1)
        if vector.size != shape[0] * shape[2] and tensor not in _ROWS_LOOKED_UP:
            raise UsageProblem(
                f"{name} is of another model: it has {vector.size} values for {tensor}, "
                f"{base.name} has rows of {shape[0] * shape[2]}",
                hint,
            )
