"""The state of a run on disk: whole or not there, and enough to go on to the same losses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from localllm.errors import DamagedFile, DiskFull
from localllm.finetune.training.savefile import SavedTensors, read_tensors, write_tensors

_VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    """A run's state but for its tensors. `optimizer` is torch's own without its tensors; `fixed`
    is what must be the same when one goes on, `history` as JSON."""

    step: int
    optimizer: Mapping[str, Any]
    fixed: Mapping[str, Any]
    history: Mapping[str, Any]
    best_step: int
    waited: int  # evaluations since the best one
    reference: Mapping[int, tuple[float, float]]
    precision: str | None = None  # that was computed in
    scaling: Mapping[str, float] = field(default_factory=dict)  # of the loss, for float16


def save(checkpoint: Checkpoint, tensors: Iterable[tuple[str, Tensor]], path: Path) -> None:
    """Write it beside `path` and put it there in one move. Raises DiskFull: what was there
    before still is. `tensors` are asked for one at a time."""
    write_whole(path, {"version": _VERSION, **vars(checkpoint)}, tensors)


def load(path: Path) -> tuple[Checkpoint, SavedTensors] | None:
    """None where there is none. Raises DamagedFile."""
    if not path.exists():
        return None
    found, tensors = read_tensors(path)
    if found.pop("version", None) != _VERSION:
        raise DamagedFile(f"{path.name} is a checkpoint of another version", "add --restart")
    return Checkpoint(**found), tensors


def write_whole(
    path: Path, value: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]] = ()
) -> None:
    """Tensors and plain data in a file that appears complete. Raises DiskFull."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write_tensors(file, value, tensors)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, error.strerror, str(path)) from None
        before = "; the one before is kept" if path.exists() else ""
        raise DiskFull(
            f"the disk of {path.parent} is full: the checkpoint could not be written{before}",
            "make room (localllm prune), then run the same command with --resume",
        ) from None


def read_whole(path: Path) -> tuple[dict[str, Any], SavedTensors] | None:
    """What `write_whole` wrote; None where there is no file. Raises DamagedFile."""
    return read_tensors(path) if path.exists() else None
