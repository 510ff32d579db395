"""Results written to a file of the user's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from localllm.errors import FileGone, UsageProblem


def replace_file(path: Path, content: str | bytes) -> None:
    """Put `content` at `path`, text in UTF-8, whole or not at all; an older file there gives way.

    What UTF-8 cannot hold (file names that are no text) is written with backslashes. Raises
    UsageProblem for a folder, FileGone where its folder is not there, OSError.
    """
    check_place(path)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    if path.exists() and not path.is_file():  # /dev/stdout and other devices are written to
        path.write_bytes(data)
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}-", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        _share(temporary, path)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_place(path: Path) -> None:
    """Raise what `replace_file` would for a place that no file can have, before the work that
    leads up to it."""
    if path.is_dir():
        raise UsageProblem(f"{path} is a folder", "give the name of a file in it")
    if not path.parent.is_dir():
        raise FileGone(f"there is no folder {path.parent}", f"mkdir -p {path.parent}")


def _share(temporary: Path, path: Path) -> None:
    """mkstemp's file is for its owner alone: give it the mode that a new file would have."""
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask)
