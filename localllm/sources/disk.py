"""What a file system refuses, by name."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from localllm.errors import DiskFull, HomeUnwritable, LocalLLMError

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def disk_problem(error: OSError, path: Path, needed_bytes: int | None) -> LocalLLMError:
    """The error for a write below `path` that failed; `needed_bytes` is what is still missing."""
    if error.errno not in _FULL:
        return HomeUnwritable(f"{path} cannot be written: {error.strerror or error}")
    return no_room(path, needed_bytes, free_bytes(path.parent))


def require_room(path: Path, needed_bytes: int) -> None:
    """Raise DiskFull where `needed_bytes` more at `path` cannot fit."""
    free = free_bytes(path.parent)
    if free is not None and free < needed_bytes:
        raise no_room(path, needed_bytes, free)


def free_bytes(folder: Path) -> int | None:
    """Free bytes for this user on the file system of `folder`, None where it does not say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def no_room(path: Path, needed_bytes: int | None, free: int | None) -> DiskFull:
    needed = "more is needed" if needed_bytes is None else f"{_gb(needed_bytes)} more needed"
    have = "" if free is None else f", {_gb(free)} free"
    return DiskFull(
        f"the disk has no room for {path}: {needed}{have}",
        "free some space (localllm prune, localllm rm) and run the same command again: it goes on",
    )


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 10**7 else f"{size_bytes} bytes"
