"""What is found on this machine: models where they lie, nothing moved or copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localllm.refs import ModelRef
from localllm.sources.base import FileRole, ModelFormat

Note = Callable[[str], None]  # told of what was passed over: one line each


@dataclass(frozen=True)
class FoundFile:
    """One file where it lies. `name` is the human name it would have in a model's folder.

    `sha256` is given only where the store's own naming publishes it (Ollama's blobs, the
    large files of the Hugging Face cache); nothing is read to find it out.
    """

    path: Path
    name: str
    role: FileRole
    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class FoundModel:
    """One model of a store. `missing` names files that it should have and has not."""

    ref: ModelRef
    publisher: str
    repo: str
    variant: str | None
    format: ModelFormat
    files: tuple[FoundFile, ...]
    extras: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)
