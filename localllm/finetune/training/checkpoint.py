"""The state of a run on disk: whole or not there, and enough to go on to the same losses."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from localllm.errors import DamagedFile, DiskFull, UsageProblem

_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """`state` are the learned tensors, `optimizer` torch's own; `fixed` is what must be the same
    when one goes on, `history` as JSON."""

    step: int
    state: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    fixed: Mapping[str, Any]
    history: Mapping[str, Any]
    best_step: int
    waited: int  # evaluations since the best one
    reference: Mapping[int, tuple[float, float]]
    precision: str | None = None  # that was computed in
    scaling: Mapping[str, float] = field(default_factory=dict)  # of the loss, for float16


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write it beside `path` and put it there in one move. Raises DiskFull: what was there
    before still is."""
    write_whole(path, {"version": _VERSION, **vars(checkpoint)})


def load(path: Path) -> Checkpoint | None:
    """None where there is none. Raises DamagedFile."""
    found = read_whole(path)
    if found is None:
        return None
    if found.pop("version", None) != _VERSION:
        raise DamagedFile(f"{path.name} is a checkpoint of another version", "add --restart")
    return Checkpoint(**found)


def write_whole(path: Path, value: Mapping[str, Any]) -> None:
    """`value` (tensors and plain data) in a file that appears complete. Raises DiskFull."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            _save(dict(value), file)
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


def _save(value: Mapping[str, Any], file: IO[bytes]) -> None:
    """Write tensors as they lie in memory, without a copy of all of them.

    torch turns what the file refuses into an error of its own stream: the file's is raised.
    """
    refused: list[OSError] = []

    class Through:
        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:
                refused.append(error)
                raise

        def flush(self) -> None:
            file.flush()

    try:
        torch.save(value, Through())  # type: ignore[arg-type]
    except (RuntimeError, OSError):
        if refused:
            raise refused[0] from None
        raise


def read_whole(path: Path) -> dict[str, Any] | None:
    """What `write_whole` wrote; None where there is no file. Raises DamagedFile.

    Only tensors and plain data are read: a checkpoint cannot run code.
    """
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, ImportError) as error:
        raise DamagedFile(f"{path} is no checkpoint: {error}", "add --restart") from None
    if not isinstance(found, dict):
        raise DamagedFile(f"{path} is no checkpoint", "add --restart")
    return found


def check_same(known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UsageProblem where a run would go on with something else than it began with."""
    changed = sorted(key for key in {*known, *now} if known.get(key) != now.get(key))
    if changed:
        raise UsageProblem(
            f"the interrupted run was begun with another {', '.join(changed)}",
            "give what it was begun with, or --restart to begin again",
        )
