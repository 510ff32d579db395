"""Writing safetensors shards tensor by tensor, hashed as they are written.

The format: 8 bytes of length, JSON, data without holes (huggingface/safetensors). Everything
about the shards is known before the first byte is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from localllm.errors import EngineError

SHARD_BYTES = 5_000_000_000  # what transformers saves by
INDEX = "model.safetensors.index.json"
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4,
           "I16": 2, "U16": 2}  # fmt: skip


@dataclass(frozen=True)
class SafeTensorOut:
    """`dtype` as the format names it; shape with rows first."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * _WIDTHS.get(self.dtype, 1)


@dataclass(frozen=True)
class Shard:
    """One file: its name, its bytes before the data, and its tensors in order."""

    name: str
    head: bytes
    tensors: tuple[SafeTensorOut, ...]

    @property
    def size_bytes(self) -> int:
        return len(self.head) + sum(t.size_bytes for t in self.tensors)


def shards_for(
    tensors: Sequence[SafeTensorOut], metadata: Mapping[str, str], shard_bytes: int = SHARD_BYTES
) -> tuple[Shard, ...]:
    """`tensors` in files of at most `shard_bytes`, a larger tensor alone in one."""
    groups: list[list[SafeTensorOut]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.size_bytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.size_bytes
    n = len(groups)
    names = ["model.safetensors"] if n == 1 else [
        f"model-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)
    ]  # fmt: skip
    return tuple(
        Shard(name, _head(group, metadata), tuple(group))
        for name, group in zip(names, groups, strict=True)
    )


def index_of(shards: Sequence[Shard]) -> bytes:
    """model.safetensors.index.json of several shards."""
    document = {
        "metadata": {"total_size": sum(t.size_bytes for s in shards for t in s.tensors)},
        "weight_map": {t.name: s.name for s in shards for t in s.tensors},
    }
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def _head(tensors: Sequence[SafeTensorOut], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    at = 0
    for tensor in tensors:
        end = at + tensor.size_bytes
        entries[tensor.name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]
        }  # fmt: skip
        at = end
    raw = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


class SafeOut:
    """Writes `shards` to the temporary `paths`, which are all removed on any failure.

    Tensors come in order; `digests` has a sha256 a shard when the block is left.
    """

    def __init__(self, shards: Sequence[Shard], path_of: Callable[[str], Path]) -> None:
        self.shards = shards
        self.paths = [path_of(shard.name) for shard in shards]
        self.digests: list[str] = []
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._shard = self._tensor = self._written = 0

    def write(self, block: Any) -> None:
        if self._file is None:
            self._file = self.paths[self._shard].open("wb")
            self._put(self.shards[self._shard].head)
        view = memoryview(block).cast("B")
        self._put(view)
        self._written += len(view)

    def end_tensor(self) -> None:
        """Raises EngineError where the current tensor has another size than was planned."""
        if self._file is None:
            self.write(b"")
        tensors = self.shards[self._shard].tensors
        tensor = tensors[self._tensor]
        if self._written != tensor.size_bytes:
            raise EngineError(
                f"{tensor.name} came out as {self._written} bytes, not {tensor.size_bytes}"
            )
        self._written, self._tensor = 0, self._tensor + 1
        if self._tensor == len(tensors):
            self._end_shard()

    def _put(self, block: Any) -> None:
        assert self._file is not None
        self._file.write(block)
        self._digest.update(block)

    def _end_shard(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self.digests.append(self._digest.hexdigest())
        self._digest = hashlib.sha256()
        self._shard, self._tensor = self._shard + 1, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and len(self.digests) == len(self.shards):
            return
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        for path in self.paths:
            path.unlink(missing_ok=True)
        if error is None:
            raise EngineError(f"{self.shards[self._shard].name} is not whole")
