"""What the registry knows of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from localllm.refs import FileRole, ModelFormat, ModelRef


@dataclass(frozen=True)
class StoredFile:
    """A file of a model. `sha256` None: registered in place and not hashed yet."""

    name: str  # relative to the model's folder, forward slashes
    path: Path  # absolute
    size_bytes: int
    sha256: str | None
    role: FileRole
    owned: bool  # false: registered where another program keeps it; never deleted


@dataclass(frozen=True)
class Lineage:
    """What a derived model was made from, so that it can be made again.

    `inputs` holds digests of everything that went in beside the parents (imatrix, data);
    `versions` the programs that made it.
    """

    operation: Literal["quantize", "convert", "finetune", "train", "merge", "create"]
    parents: tuple[tuple[str, str | None], ...]  # (name, sha256 of the weights)
    command: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """One model. `id` is None for a file that is used without being registered."""

    id: int | None
    name: str  # what the user types; unique
    ref: ModelRef  # pinned to a revision where the source has them
    format: ModelFormat
    source: str
    publisher: str
    repo: str
    variant: str | None
    architecture: str | None
    file_type: str | None  # "Q4_K_M"
    n_params: int | None
    n_ctx_train: int | None
    files: tuple[StoredFile, ...]
    added_at: float  # seconds since the epoch
    aliases: tuple[str, ...] = ()
    lineage: Lineage | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)  # template, system, license, ...

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files)

    def with_role(self, *roles: FileRole) -> tuple[StoredFile, ...]:
        return tuple(f for f in self.files if f.role in roles)

    @property
    def weights(self) -> tuple[StoredFile, ...]:
        """The files that hold the tensors, shards in order; not the adapter that an Ollama
        model may bring along."""
        if self.format == "mmproj":
            return self.files
        return self.with_role("weights", *(("adapter",) if self.format == "adapter" else ()))

    @property
    def attached(self) -> tuple[tuple[Path, float], ...]:
        """LoRAs, each with its scale, that belong to the model wherever it runs; an adapter by
        itself has none."""
        return tuple((file.path, 1.0) for file in self._lora)

    @property
    def digest(self) -> str | None:
        """What tells its content from another's: the sha256 of the weights; of several shards,
        or with adapters attached, one of all their digests (a first shard often holds metadata
        alone). None where one of them is not hashed yet."""
        digests = [f.sha256 for f in (*self.weights, *self._lora)]
        known = [digest for digest in digests if digest is not None]
        if not known or len(known) < len(digests):
            return None
        return known[0] if len(known) == 1 else hashlib.sha256("+".join(known).encode()).hexdigest()

    @property
    def _lora(self) -> tuple[StoredFile, ...]:
        return () if self.format == "adapter" else self.with_role("adapter")

    @property
    def path(self) -> Path:
        """The file to hand to a program: the GGUF (its first shard), or the folder of a
        safetensors model."""
        first = self.weights[0].path if self.weights else self.files[0].path
        if self.format == "safetensors":
            depth = len(Path(self.weights[0].name).parts) if self.weights else 1
            return first.parents[depth - 1]
        return first


@dataclass(frozen=True)
class Measurement:
    """A number that was measured on a model: a benchmark row, a quality figure."""

    id: int
    model: str
    sha256: str | None  # of the weights measured
    kind: str  # "bench" | "quality"
    made_at: float
    data: Mapping[str, Any]
