"""A model's files, written where the user wants them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import DiskFull, UsageProblem
from localllm.registry import Model, StoredFile
from localllm.ui import Advance, Bytes, Progress

_BLOCK = 8 << 20


@dataclass(frozen=True)
class Exported:
    model: str
    paths: tuple[Path, ...]
    size_bytes: int
    linked: bool


def export_model(
    model: Model, folder: Path, progress: Progress, *, force: bool = False, link: bool = False
) -> Exported:
    """Copy (or hard link) every file of `model` into `folder`, each appearing when complete.

    Raises UsageProblem where a file is there already and not `force`, DiskFull before a byte
    is written.
    """
    targets = [(file, folder / file.name) for file in model.files]
    for _, target in targets:
        if target.exists() and not force:
            raise UsageProblem(f"{target} exists", "add --force to replace it")
    folder.mkdir(parents=True, exist_ok=True)
    if not link:
        _check_space(model, folder)
    linked = True
    with progress.bytes(f"export {model.name}", model.size_bytes) as advance:
        for file, target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
            try:
                if not (link and _linked(file, temporary)):
                    linked = False
                    _copy(file, temporary, advance)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
    return Exported(model.name, tuple(t for _, t in targets), model.size_bytes, linked)


def _check_space(model: Model, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < model.size_bytes:
        raise DiskFull(
            f"{folder} has {Bytes(free)} free, {model.name} needs {Bytes(model.size_bytes)}"
        )


def _linked(file: StoredFile, target: Path) -> bool:
    try:
        os.link(file.path, target)
    except OSError:
        return False  # another file system, or one without links: copy
    return True


def _copy(file: StoredFile, target: Path, advance: Advance) -> None:
    with file.path.open("rb") as source, target.open("wb") as sink:
        while block := source.read(_BLOCK):
            sink.write(block)
            advance(len(block))
        sink.flush()
        os.fsync(sink.fileno())
