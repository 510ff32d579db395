"""What is quantized: a GGUF's files as they were when the work began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem
from localllm.library.derive import with_digest
from localllm.library.stamp import Stamp
from localllm.registry import Model
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.formats.gguf import GGUFModel


@dataclass(frozen=True, eq=False)
class Source:
    """The GGUF that is read and the model that lineage names as its parent.

    They are the same, unless the model was converted first (`parameters`, `inputs` and
    `versions` then say how). `stamps` are of the files of `gguf`.
    """

    model: Model
    gguf: GGUFModel
    stamps: tuple[Stamp, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file, or the first shard."""
        return self.stamps[0].path

    @property
    def runnable(self) -> Model:
        """The registered GGUF itself. Raises UsageProblem where it only lives for this run."""
        if self.parameters:
            raise UsageProblem(
                f"an importance matrix is made of a GGUF, and {self.model.name} has none yet",
                f"localllm convert {self.model.name}",
            )
        return self.model

    @property
    def n_layers(self) -> int:
        return self.gguf.arch_u32("block_count", 0) if self.gguf.architecture else 0

    def check_unchanged(self) -> None:
        """Raise DamagedFile where a file is not what it was: what was read is of no one model."""
        for stamp in self.stamps:
            stamp.check()


def hashed(source: Source, progress: Progress) -> Source:
    """`source` with the digest that lineage names it by, read once."""
    return replace(source, model=with_digest(source.model, progress))


def open_source(model: Model) -> Source:
    """A GGUF model as a source. Reads headers only. Raises DamagedFile, FileGone."""
    return source_of([f.path for f in model.weights], model)


def source_of(
    files: list[Path],
    model: Model,
    parameters: Mapping[str, str] | None = None,
    inputs: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Source:
    """GGUF `files` (shards in order) that were made from `model`, or are its own."""
    from localllm.formats.gguf import read_model

    stamps = tuple(Stamp.of(path) for path in files)
    return Source(model, read_model(files), stamps, parameters or {}, inputs or {}, versions or {})
