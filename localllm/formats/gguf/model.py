"""A model in one file or in several shards, read as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from localllm.errors import DamagedFile, FileGone
from localllm.formats.gguf.header import GGUFHeader, GGUFView
from localllm.formats.gguf.index import TensorInfo
from localllm.formats.gguf.metadata import Metadata
from localllm.formats.gguf.read import read_header
from localllm.formats.prefix import DAMAGED_HINT
from localllm.formats.shards import shard_family, shard_name


class Location(NamedTuple):
    """Where a tensor's bytes are: shard (from 0), absolute offset and size in bytes."""

    shard: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, eq=False)
class GGUFModel(GGUFView):
    """All shards of a model in order, `metadata` of the first and the tensors of all."""

    name: str
    metadata: Metadata
    tensors: dict[str, TensorInfo]
    shards: tuple[GGUFHeader, ...]
    shard_of: dict[str, int]  # tensor name -> index in `shards`

    def locate(self, tensor: str) -> Location:
        """Where a tensor's bytes are. Raises KeyError."""
        shard, info = self.shard_of[tensor], self.tensors[tensor]
        return Location(shard, self.shards[shard].data_offset + info.offset, info.size_bytes)


def model_files(path: Path) -> tuple[Path, ...]:
    """The files of the model that `path` is, or is a shard of, in order, there or not."""
    return tuple(path.with_name(name) for name in shard_family(path.name))


def read_model(paths: Sequence[Path] | Path) -> GGUFModel:
    """The headers of a model's files as one.

    One path, of a whole model or of any shard, stands for its family beside it; several are
    taken as all the shards, in any order. Raises FileGone naming every missing shard, and
    DamagedFile where shards do not belong together.
    """
    files = model_files(paths) if isinstance(paths, Path) else tuple(paths)
    missing = [path for path in files if not path.exists()]
    if missing:
        raise FileGone(_missing(files, missing), "localllm pull fetches what is missing")
    return combine([read_header(path) for path in files])


def combine(headers: Sequence[GGUFHeader]) -> GGUFModel:
    """Headers, of files or of remote prefixes, as one model; see `read_model`."""
    if not headers:
        raise ValueError("no headers to combine")
    shards = _ordered(headers)
    first = shards[0]
    tensors: dict[str, TensorInfo] = {}
    shard_of: dict[str, int] = {}
    for i, shard in enumerate(shards):
        for tensor in shard.tensors.values():
            if tensor.name in tensors:
                raise DamagedFile(
                    f"{shard.name}: tensor {tensor.name!r} is also in "
                    f"{shards[shard_of[tensor.name]].name}",
                    DAMAGED_HINT,
                )
            tensors[tensor.name] = tensor
            shard_of[tensor.name] = i
    claimed = first.split.n_tensors if first.split else None
    if claimed is not None and claimed != len(tensors):
        raise DamagedFile(
            f"{first.name}: the split has {len(tensors)} tensors and should have {claimed}",
            DAMAGED_HINT,
        )
    return GGUFModel(first.name, first.metadata, tensors, tuple(shards), shard_of)


def _ordered(headers: Sequence[GGUFHeader]) -> list[GGUFHeader]:
    """The shards in the order of their split.no, each number there exactly once."""
    first = headers[0]
    if len(headers) == 1 and first.split is None:
        return [first]
    by_number: dict[int, GGUFHeader] = {}
    for header in headers:
        split = header.split
        count = len(headers) if split is None else split.count
        if split is None or not 0 <= split.number < count:
            raise DamagedFile(f"{header.name}: it is no shard of a split model", DAMAGED_HINT)
        if first.split is not None and count != first.split.count:
            raise DamagedFile(
                f"{header.name}: a shard of {count}, but {first.name} is one of "
                f"{first.split.count}",
                DAMAGED_HINT,
            )
        if split.number in by_number:
            raise DamagedFile(
                f"{header.name} and {by_number[split.number].name} are both shard "
                f"{split.number + 1} of {count}",
                DAMAGED_HINT,
            )
        by_number[split.number] = header
    if len(by_number) < count:
        raise FileGone(_absent(first.name, by_number, count), "localllm pull fetches the rest")
    return [by_number[i] for i in range(count)]


def _missing(files: Sequence[Path], missing: Sequence[Path]) -> str:
    if len(files) == 1:
        return f"{missing[0]} does not exist"
    names = ", ".join(path.name for path in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{len(missing)} of {len(files)} shards are missing: {names}{more}"


def _absent(name: str, present: dict[int, GGUFHeader], count: int) -> str:
    """One line on the shards that were not given, without a list as long as a lying count."""
    n_absent = count - len(present)
    first = next(i for i in range(count) if i not in present)
    shard = shard_name(name)
    example = f"number {first + 1}"
    if shard is not None and shard.count == count:
        example = str(type(shard)(shard.stem, first + 1, count, shard.suffix))
    return f"{name}: {n_absent} of {count} shards are missing, the first is {example}"
