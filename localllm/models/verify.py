"""Rehash a model's files against the registry."""

from __future__ import annotations

from dataclasses import dataclass

from localllm.errors import FileGone
from localllm.registry import Model, Registry
from localllm.ui import Progress


@dataclass(frozen=True)
class Verified:
    model: str
    bytes_read: int
    damaged: tuple[str, ...]  # file names whose sha256 differs
    missing: tuple[str, ...]  # file names the disk no longer has
    recorded: tuple[str, ...]  # files registered in place whose digest is taken now

    @property
    def ok(self) -> bool:
        return not self.damaged and not self.missing


def verify(model: Model, registry: Registry, progress: Progress) -> Verified:
    """Rehash every file of `model` and compare with the digest taken when it landed.

    Reads each file once, sequentially, in 8 MiB blocks; memory does not grow with the model.
    A file registered in place has no digest until now: it is taken and kept.
    """
    damaged: list[str] = []
    missing: list[str] = []
    recorded: list[str] = []
    read = 0
    with progress.bytes(f"verify {model.name}", total=model.size_bytes) as advance:
        for file in model.files:
            try:
                digest = registry.digest(file, advance)
            except FileGone:
                missing.append(file.name)
                continue
            read += file.path.stat().st_size
            if file.sha256 is None and model.id is not None:
                registry.set_digest(model, file, digest)
                recorded.append(file.name)
            elif file.sha256 is not None and digest != file.sha256:
                damaged.append(file.name)
    return Verified(model.name, read, tuple(damaged), tuple(missing), tuple(recorded))
