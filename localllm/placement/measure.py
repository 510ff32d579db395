"""Asking this machine's llama.cpp about a model, downloaded or not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localllm.engine.options import ContextOptions, LoadOptions
from localllm.engine.repack import repacks
from localllm.engine.reserve import Reservation, reserve
from localllm.formats.gguf import GGUFHeader, GGUFModel
from localllm.placement.planner import Machine


@contextmanager
def machine_for(model: GGUFHeader | GGUFModel, path: Path | None = None) -> Iterator[Machine]:
    """A `Machine` for this model while the block runs.

    With `path` (of the file or its first shard) that is measured. Without, stand-ins are made
    from the headers: sparse files of the true size in a temporary folder, removed at the end.
    """
    if path is not None:
        yield _machine(path)
        return
    with tempfile.TemporaryDirectory(prefix="localllm-fit-") as folder:
        yield _machine(_stand_in(model, Path(folder)))


def _machine(path: Path) -> Machine:
    def measure(load: LoadOptions, context: ContextOptions) -> Reservation:
        return reserve(path, load, context)

    return Machine(measure, repacks)


def _stand_in(model: GGUFHeader | GGUFModel, folder: Path) -> Path:
    """Shards under the names that llama.cpp looks for; the first one's path."""
    shards = model.shards if isinstance(model, GGUFModel) else (model,)
    count = len(shards)
    names = [f"model-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
    for shard, name in zip(shards, names, strict=True):
        shard.write_sparse(folder / name)
    return folder / names[0]
