"""Merge importance matrices, and read one with what it says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import FileGone, NotFound, UsageProblem
from localllm.formats.imatrix import merged, read_imatrix, write_imatrix
from localllm.imatrix.statistics import (
    LayerStatistics,
    TensorStatistics,
    layer_statistics,
    tensor_statistics,
)
from localllm.library import find_gguf
from localllm.library.imatrix import QuietExperts, find_imatrix, quiet_experts
from localllm.registry import Registry


@dataclass(frozen=True)
class MergedImatrix:
    """What `merge` wrote."""

    path: Path
    datasets: tuple[str, ...]
    n_chunks: int
    n_tensors: int
    quiet: tuple[QuietExperts, ...]
    elapsed_s: float


@dataclass(frozen=True)
class ShownImatrix:
    """A matrix and its statistics. `model` and `n_tokens` None where the file does not say."""

    path: Path
    datasets: tuple[str, ...]
    model: str | None
    chunk_size: int
    n_chunks: int
    n_tokens: int | None
    tensors: tuple[TensorStatistics, ...]
    layers: tuple[LayerStatistics, ...]
    quiet: tuple[QuietExperts, ...]


def merge(paths: Sequence[Path], out: Path, chunk_size: int = 512) -> MergedImatrix:
    """Add up matrices of one model over several texts. `chunk_size` is what a .dat among them
    was made with, which it does not say.

    Raises UsageProblem (different models or shapes), FileGone, DamagedFile.
    """
    if len(paths) < 2:
        raise UsageProblem(
            "merging takes two matrices at least", "localllm imatrix --merge A B --out C"
        )
    if not out.parent.is_dir():
        raise FileGone(f"there is no folder {out.parent}")
    begun = time.perf_counter()
    parts = {str(path): read_imatrix(path, chunk_size=chunk_size) for path in paths}
    if len(parts) < len(paths):
        raise UsageProblem("one file is named twice: its texts would count double")
    total = merged(parts)
    write_imatrix(out, total)
    return MergedImatrix(
        out,
        total.datasets,
        total.chunk_count,
        len(total.entries),
        quiet_experts(total),
        time.perf_counter() - begun,
    )


def show(what: str, registry: Registry) -> ShownImatrix:
    """Statistics of the matrix in a file, or of the newest kept for a model.

    Raises NotFound where the model has none, FileGone, DamagedFile.
    """
    path = _path_of(what, registry)
    imatrix = read_imatrix(path)
    tensors = tensor_statistics(imatrix.entries)
    tokens = imatrix.facts.get("tokens", "")
    return ShownImatrix(
        path,
        imatrix.datasets,
        imatrix.facts.get("model"),
        imatrix.chunk_size,
        imatrix.chunk_count,
        int(tokens) if tokens.isdigit() else None,
        tensors,
        layer_statistics(tensors),
        quiet_experts(imatrix),
    )


def _path_of(what: str, registry: Registry) -> Path:
    path = Path(what).expanduser()
    # a model's own GGUF may be meant: then the matrix kept for it
    if path.is_file() and (path.suffix != ".gguf" or _is_matrix(path)):
        return path
    model = find_gguf(what, registry)
    found = find_imatrix(model, registry)
    if found is None:
        raise NotFound(f"no importance matrix is kept for {model.name}", f"localllm imatrix {what}")
    return found


def _is_matrix(path: Path) -> bool:
    from localllm.formats.gguf import read_header

    return read_header(path).kind == "imatrix"
