"""A file of tensors and plain data, written and read tensor by tensor: neither takes memory for
all of them.

    each tensor's bytes | plain data and where each tensor is, by torch.save | its length | MAGIC
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from localllm.errors import DamagedFile

_MAGIC = b"llmstate"
_ALIGNED = 64


@dataclass(frozen=True)
class _Where:
    dtype: str
    shape: tuple[int, ...]
    offset: int


class SavedTensors(Mapping[str, Tensor]):
    """A file's tensors by name, each read when it is asked for. The file must not change."""

    def __init__(self, path: Path, index: Mapping[str, _Where]) -> None:
        self._path, self._index = path, index

    def __getitem__(self, name: str) -> Tensor:
        where = self._index[name]
        dtype = getattr(torch, where.dtype)
        found = np.empty(math.prod(where.shape) * dtype.itemsize, dtype=np.uint8)
        with self._path.open("rb") as file:
            file.seek(where.offset)
            if file.readinto(found.data) != found.nbytes:
                raise DamagedFile(f"{self._path} is no checkpoint: it ends early", "add --restart")
        return torch.from_numpy(found).view(dtype).reshape(where.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def under(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Those whose names begin so, without that beginning, one at a time."""
        return ((n.removeprefix(prefix), self[n]) for n in self._index if n.startswith(prefix))


def write_tensors(
    file: IO[bytes], value: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """`tensors` as they come, then the plain data. Raises OSError."""
    index: dict[str, tuple[str, tuple[int, ...], int]] = {}
    at = 0
    for name, tensor in tensors:
        at += file.write(bytes(-at % _ALIGNED))
        index[name] = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), at)
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        file.write(flat.numpy().data)
        at += flat.numel()
    plain = io.BytesIO()
    torch.save({"value": dict(value), "index": index}, plain)
    file.write(plain.getbuffer())
    file.write(plain.getbuffer().nbytes.to_bytes(8, "little") + _MAGIC)


def read_tensors(path: Path) -> tuple[dict[str, Any], SavedTensors]:
    """What `write_tensors` wrote. Only tensors and plain data are read: a file cannot run code.

    Raises DamagedFile.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, io.SEEK_END) - 8 - len(_MAGIC)
            file.seek(max(0, end))
            tail = file.read()
            n_plain = int.from_bytes(tail[:8], "little")
            if end < 0 or tail[8:] != _MAGIC or n_plain > end:
                raise ValueError("it does not end as one")
            file.seek(end - n_plain)
            plain = io.BytesIO(file.read(n_plain))
        found = torch.load(plain, map_location="cpu", weights_only=True)
        index = {name: _where(one, end - n_plain) for name, one in found["index"].items()}
        return found["value"], SavedTensors(path, index)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DamagedFile(f"{path} is no checkpoint: {error}", "add --restart") from None


def _where(entry: tuple[str, tuple[int, ...], int], end: int) -> _Where:
    """Raises ValueError, TypeError for what cannot lie before `end`."""
    dtype, shape, offset = entry
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or min((0, offset, *shape)) < 0:
        raise ValueError("its index is damaged")
    if offset + math.prod(shape) * kind.itemsize > end:
        raise ValueError("it ends early")
    return _Where(dtype, tuple(shape), offset)
