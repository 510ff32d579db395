"""Tensors of a model on disk, a few rows at a time.

Files are read and never mapped: mapped pages would count as this process's memory, and a merge
of a large model must stay near the size of the rows it is at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from localllm.closing import Closing
from localllm.errors import DamagedFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.formats.gguf import GGUFModel

CHUNK_ELEMENTS = 1 << 21  # 8 MiB in float32; several buffers of it live on each thread
COPY_BYTES = 8 << 20


@dataclass(frozen=True)
class Layout:
    """How a tensor lies: `n_rows` rows of `n_per_row` numbers; `type_name` is the format's own
    ("Q4_K", "BF16"), `shape` in the format's own order."""

    shape: tuple[int, ...]
    n_rows: int
    n_per_row: int
    type_name: str


class TensorSource(Protocol):
    """What can be merged. `raw` is called by one thread, `values` by several."""

    @property
    def name(self) -> str: ...

    def names(self) -> Sequence[str]: ...

    def layout(self, tensor: str) -> Layout: ...

    def raw(self, tensor: str, start: int, stop: int) -> NDArray[np.uint8]: ...

    def values(self, tensor: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]: ...


def row_spans(n_rows: int, n_per_row: int, per_matrix: int) -> Iterator[tuple[int, int]]:
    """`(start, stop)` rows of about CHUNK_ELEMENTS numbers each, none over the edge of a matrix
    (each has importance of its own)."""
    step = max(1, CHUNK_ELEMENTS // max(1, n_per_row))
    for first in range(0, n_rows, per_matrix):
        last = min(first + per_matrix, n_rows)
        for start in range(first, last, step):
            yield start, min(start + step, last)


class GGUFTensors(Closing):
    """A GGUF model's tensors, all shards of it. Raises DamagedFile, FileGone."""

    def __init__(self, files: Sequence[Path], name: str | None = None) -> None:
        from localllm.formats.gguf import read_model

        self.model: GGUFModel = read_model(list(files))
        self._name = name or self.model.name
        self.path = files[0]  # or the first shard
        self._files: list[BinaryIO] = [path.open("rb", buffering=0) for path in files]

    @property
    def name(self) -> str:
        return self._name

    def names(self) -> Sequence[str]:
        return list(self.model.tensors)

    def layout(self, tensor: str) -> Layout:
        info = self.model.tensors[tensor]
        per_row = info.shape[0] if info.shape else 1
        return Layout(info.shape, info.n_elements // per_row, per_row, info.type.name)

    def raw(self, tensor: str, start: int, stop: int) -> NDArray[np.uint8]:
        """The stored bytes of rows `start` to `stop`, [rows, bytes of a row]."""
        info, layout = self.model.tensors[tensor], self.layout(tensor)
        row_bytes = layout.n_per_row // info.type.block_elements * info.type.block_bytes
        place = self.model.locate(tensor)
        file = self._files[place.shard]
        data = read_exactly(
            file, place.offset + start * row_bytes, (stop - start) * row_bytes, self._name
        )
        return data.reshape(stop - start, row_bytes)

    def values(self, tensor: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`raw` as numbers, by ggml's own code. Raises UsageProblem for types that hold none."""
        from localllm.engine.ggml_types import row_type

        layout = self.layout(tensor)
        return row_type(layout.type_name).dequantize(raw, layout.n_per_row)

    def stored(self, tensor: str) -> Iterator[NDArray[np.uint8]]:
        """A tensor's bytes as they are, in blocks."""
        place = self.model.locate(tensor)
        file = self._files[place.shard]
        for at in range(0, place.size_bytes, COPY_BYTES):
            n = min(COPY_BYTES, place.size_bytes - at)
            yield read_exactly(file, place.offset + at, n, self._name)

    def close(self) -> None:
        for file in self._files:
            file.close()


def read_exactly(file: BinaryIO, offset: int, n_bytes: int, name: str) -> NDArray[np.uint8]:
    """`n_bytes` from `offset`. Raises DamagedFile where the file ends before."""
    import numpy as np

    out = np.empty(n_bytes, dtype=np.uint8)
    view, done = out.data, 0
    file.seek(offset)
    while done < n_bytes:
        got = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            raise DamagedFile(f"{name} ended while it was being read; nothing was made of it")
        done += got
    return out
