"""How a complete file gets its final name: linked, moved or left where it is.

What another model refers to keeps its content: a new revision of the same file lands in a
folder of its own. Content that is here already is stored once, and of the two copies the one
that was verified just now is kept.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localllm.refs import FileRole, ModelFormat, ModelRef
from localllm.registry.model import Lineage, StoredFile


@dataclass(frozen=True)
class Staged:
    """A complete, verified file: in `partial/`, or with `in_place` where another program
    keeps it."""

    path: Path
    name: str  # relative to the model's folder
    size_bytes: int
    sha256: str | None
    role: FileRole
    in_place: bool = False


@dataclass(frozen=True)
class Arrival:
    """A model about to be registered."""

    name: str
    ref: ModelRef
    format: ModelFormat
    source: str
    publisher: str
    repo: str
    files: tuple[Staged, ...]
    variant: str | None = None
    architecture: str | None = None
    file_type: str | None = None
    n_params: int | None = None
    n_ctx_train: int | None = None
    lineage: Lineage | None = None
    aliases: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)


def land(connection: sqlite3.Connection, arrival: Arrival, home: Path) -> tuple[StoredFile, ...]:
    """Move every staged file to its final name, inside the caller's transaction.

    Killed before the commit, a file is an orphan under its final name: complete, taken back
    by the next pull or found by `prune`.
    """
    folder = _folder(connection, arrival, home)
    return tuple(_land_one(connection, staged, folder, home) for staged in arrival.files)


def take_back(connection: sqlite3.Connection, arrival: Arrival, staged: Staged, home: Path) -> bool:
    """Move `staged` from its final name back to where it was staged, if a process that was
    killed between moving and registering has left it there. False where there is none."""
    for folder in _folders(arrival, home):
        final = _final(folder, staged.name)
        if _indexed(connection, final, home) is None and _has_size(final, staged.size_bytes):
            final.replace(staged.path)
            return True
    return False


def _land_one(
    connection: sqlite3.Connection, staged: Staged, folder: Path, home: Path
) -> StoredFile:
    if staged.in_place:
        path = staged.path.absolute()
        return StoredFile(staged.name, path, staged.size_bytes, staged.sha256, staged.role, False)
    final = _final(folder, staged.name)
    stored = StoredFile(staged.name, final, staged.size_bytes, staged.sha256, staged.role, True)
    if final.exists() and final.samefile(staged.path):
        if staged.path != final:  # renaming one name of a file to another does nothing
            staged.path.unlink()
        return stored
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.path.replace(final)
    except PermissionError:  # Windows, while a program has the old one open
        if not (final.exists() and _indexed(connection, final, home) == staged.sha256):
            raise
        staged.path.unlink()
    _sync_folder(final.parent)
    _share(connection, stored, home)
    return stored


def _share(connection: sqlite3.Connection, stored: StoredFile, home: Path) -> None:
    """Let the other names of this content have the bytes that just arrived, so that they are
    stored once; where an older copy was damaged unnoticed, it is whole again.

    Not bytes that have another name already: that may be a user's own file, which changes.
    """
    if stored.sha256 is None or stored.path.stat().st_nlink > 1:
        return
    for row in connection.execute(
        "SELECT DISTINCT path FROM file WHERE sha256 = ? AND owned", (stored.sha256,)
    ):
        twin = home / row["path"]
        if not _has_size(twin, stored.size_bytes) or twin.samefile(stored.path):
            continue
        temporary = twin.with_name(f"{twin.name}.{os.getpid()}.link")
        try:
            os.link(stored.path, temporary)
            temporary.replace(twin)
        except OSError:  # another file system, or one without links: the bytes stay double
            temporary.unlink(missing_ok=True)
            return


def _folder(connection: sqlite3.Connection, arrival: Arrival, home: Path) -> Path:
    """The first folder where no file of the arrival would take the place of another one."""
    return next(
        folder
        for folder in _folders(arrival, home)
        if all(_free(connection, f, folder, home) for f in arrival.files if not f.in_place)
    )


def _folders(arrival: Arrival, home: Path) -> Iterator[Path]:
    """Where the files may go: `repo`, else `repo@revision`, else `repo@digest`, else numbered."""
    base = home.joinpath(
        "models", safe_component(arrival.source), safe_component(arrival.publisher)
    )
    yield base / safe_component(arrival.repo)
    digest = next((f.sha256 for f in arrival.files if f.sha256), None)
    for mark in (arrival.ref.revision, digest):
        if mark:
            short = re.sub("[^0-9A-Za-z]", "", mark)[:12]
            yield base / safe_component(f"{arrival.repo}@{short}")
    for number in range(2, 1000):
        yield base / safe_component(f"{arrival.repo}@{number}")


def _final(folder: Path, name: str) -> Path:
    return folder.joinpath(*map(safe_component, Path(name).parts))


def _free(connection: sqlite3.Connection, staged: Staged, folder: Path, home: Path) -> bool:
    digest = _indexed(connection, _final(folder, staged.name), home)
    return digest is None or digest == staged.sha256


def _indexed(connection: sqlite3.Connection, path: Path, home: Path) -> str | None:
    """The digest the index has for a path of ours, or None where it has no such file."""
    row = connection.execute(
        "SELECT sha256 FROM file WHERE path = ? AND owned", (path.relative_to(home).as_posix(),)
    ).fetchone()
    return None if row is None else row["sha256"] or "unknown"


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


def safe_component(text: str) -> str:
    """One path component that every file system takes; never empty, `.` or `..`."""
    cleaned = re.sub(r'[\\/:*?"<>|\x00-\x1f\x7f]', "_", text).rstrip(" .")
    cleaned = cleaned.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
    if not cleaned.strip(".") or _RESERVED.fullmatch(cleaned):
        return f"_{cleaned.strip('.')}"
    return cleaned


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets a folder be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
