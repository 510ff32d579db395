"""Tensors as they lie in a model's files: mapped, never read as a whole.

A GGUF's and a safetensors folder's are the same here: rows of one of ggml's types. The maps are
private (copy on write): what is written to them stays in this process.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.engine.ggml_types import RowType, row_types
from localllm.engine.threads import default_threads
from localllm.errors import EngineError
from localllm.formats.gguf import GGUFModel, model_files
from localllm.formats.safetensors import SafetensorsModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Indices = NDArray[np.int64]
    Numbers = NDArray[np.float32]

FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}  # of safetensors, in ggml's spelling
SMALL = 1 << 18  # elements under which threads cost more than they give


@dataclass(frozen=True, eq=False)
class Stored:
    """One tensor: `data` (rows, bytes a row) of `type`; `shape` in torch's order. A vector is
    one row, and what has more than two axes has the rows of all its matrices."""

    name: str
    shape: tuple[int, ...]
    type: RowType
    data: Bytes
    pages: Pages | None = None  # where the data lie in a mapped file

    @property
    def n_per_row(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def size_bytes(self) -> int:
        return self.data.nbytes

    @property
    def quantized(self) -> bool:
        return self.type.name.lower() not in ("f32", "f16", "bf16")

    def rows(self, which: slice | Indices, out: Numbers | None = None) -> Numbers:
        """Rows as float32, (n, n_per_row): a slice's or those of an array of indices, by
        ggml's own code on several threads; in `out` where it is given."""
        import numpy as np

        data = self.data[which]
        found = np.empty((len(data), self.n_per_row), dtype=np.float32) if out is None else out
        n = len(data) if found.size >= SMALL else 1
        parts = np.array_split(np.arange(len(data)), min(n, default_threads())) if len(data) else []
        spans = [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]
        if len(spans) == 1:
            self.type.dequantize(data, self.n_per_row, found)
        else:
            list(
                _pool().map(
                    lambda span: self.type.dequantize(
                        data[span[0] : span[1]], self.n_per_row, found[span[0] : span[1]]
                    ),
                    spans,
                )
            )
        return found

    def numbers(self) -> Numbers:
        """The whole tensor as float32, in its shape."""
        return self.rows(slice(None)).reshape(self.shape)

    def let_go(self) -> None:
        """Of a tensor that was copied: its part of the file need not be in this process's memory
        any more. It is read again where it is asked for. What was written to it would be lost."""
        if self.pages is not None:
            self.pages.let_go()


@dataclass(frozen=True, eq=False)
class Pages:
    """Bytes `start` to `stop` of a mapped file."""

    map: mmap.mmap
    start: int
    stop: int

    def let_go(self) -> None:
        """Nothing where the system has no such call (Windows)."""
        first = -(-self.start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = self.stop // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0 and sys.platform != "win32":
            self.map.madvise(mmap.MADV_DONTNEED, first, length)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(default_threads(), thread_name_prefix="dequantize")


class Weights(Mapping[str, Stored]):
    """All tensors of a model by the names of its file."""

    def __init__(self, name: str, tensors: Mapping[str, Stored]) -> None:
        self.name = name
        self._tensors = tensors

    def __getitem__(self, key: str) -> Stored:
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def read(self, name: str) -> Numbers:
        """One tensor as float32, in its shape. Raises KeyError."""
        return self._tensors[name].numbers()


def gguf_weights(model: GGUFModel, path: Path) -> Weights:
    """The tensors of a GGUF, all shards of it; `path` is the file or any of its shards.

    Raises FileGone (by `read_model`, before), OSError, EngineError for types that this build
    of ggml does not know.
    """
    maps = [_Mapped(file) for file in model_files(path)]
    tensors = {}
    for name, info in model.tensors.items():
        place = model.locate(name)
        shape = tuple(reversed(info.shape))
        tensors[name] = _stored(
            model.name, name, shape, info.type.name.lower(), maps[place.shard],
            place.offset, place.size_bytes,
        )  # fmt: skip
    return Weights(model.name, tensors)


def safetensors_weights(model: SafetensorsModel) -> Weights:
    """The tensors of a folder of safetensors. Raises OSError, EngineError for other types
    than F32, F16 and BF16."""
    maps = {file: _Mapped(file) for file in model.files}
    headers = dict(zip(model.files, model.shards, strict=True))
    tensors = {}
    for name, info in model.tensors.items():
        file = model.file_of[name]
        if info.dtype not in FLOATS:
            raise EngineError(f"{model.folder.name}: {name} is stored as {info.dtype}")
        tensors[name] = _stored(
            model.folder.name, name, info.shape, FLOATS[info.dtype], maps[file],
            headers[file].data_offset + info.offset, info.size_bytes,
        )  # fmt: skip
    return Weights(model.folder.name, tensors)


def _stored(
    model: str, name: str, shape: Sequence[int], type_name: str, mapped: _Mapped, at: int, size: int
) -> Stored:
    kind = row_types().get(type_name)
    if kind is None:
        raise EngineError(f"{model}: {name} is stored as {type_name}, which holds no weights")
    row = kind.row_bytes(shape[-1] if shape else 1)
    data = mapped.data[at : at + size].reshape(-1, row)
    return Stored(name, tuple(shape), kind, data, mapped.pages(at, at + size))


class _Mapped:
    """A file's bytes, mapped."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        self._map: mmap.mmap | None = None
        self.data: Bytes = np.empty(0, dtype=np.uint8)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                self.data = np.frombuffer(self._map, dtype=np.uint8)

    def pages(self, start: int, stop: int) -> Pages | None:
        return None if self._map is None else Pages(self._map, start, stop)
