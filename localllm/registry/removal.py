"""Deleting the files of models that are gone, and nothing that anyone still has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from localllm.registry import rows
from localllm.registry.model import StoredFile


def unreferenced(
    connection: sqlite3.Connection, files: Iterable[StoredFile], home: Path, but: int | None = None
) -> list[StoredFile]:
    """Those of `files` that are ours and no row names, other than rows of the model `but`."""
    query = "SELECT 1 FROM file WHERE path = ? AND owned AND model_id IS NOT ?"
    return [
        f
        for f in files
        if f.owned and not connection.execute(query, (rows.stored_path(f, home), but)).fetchone()
    ]


def unlink(files: Iterable[StoredFile], home: Path) -> int:
    """Delete `files` and the folders that are empty then. Returns the bytes freed.

    What a program has open on Windows stays, for `prune`.
    """
    freed = 0
    for file in files:
        try:
            last_name = file.path.stat().st_nlink == 1
            file.path.unlink()
        except (FileNotFoundError, PermissionError):
            continue
        freed += file.size_bytes if last_name else 0
        drop_empty(file.path.parent, home / "models")
    return freed


def drop_empty(folder: Path, top: Path) -> None:
    """Remove `folder` and those above it below `top`, as far as they are empty."""
    with suppress(OSError):  # not empty: the rest is in use too
        while folder != top and top in folder.parents:
            folder.rmdir()
            folder = folder.parent
