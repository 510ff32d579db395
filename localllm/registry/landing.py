"""How a complete file gets its final name: linked, moved or left where it is.

No file is ever overwritten: what another model refers to keeps its bytes, and a new
revision of the same file lands in a folder of its own.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Mapping
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

    Killed before the commit, a file is an orphan under its final name: complete, found
    again by the next pull or by `prune`.
    """
    folder = _folder(connection, arrival, home)
    return tuple(_land_one(connection, staged, folder, home) for staged in arrival.files)


def _land_one(
    connection: sqlite3.Connection, staged: Staged, folder: Path, home: Path
) -> StoredFile:
    if staged.in_place:
        path = staged.path.absolute()
        return StoredFile(staged.name, path, staged.size_bytes, staged.sha256, staged.role, False)
    final = folder.joinpath(*map(safe_component, Path(staged.name).parts))
    stored = StoredFile(staged.name, final, staged.size_bytes, staged.sha256, staged.role, True)
    if final.exists() and final.samefile(staged.path):
        staged.path.unlink(missing_ok=True)
        return stored
    if _indexed(connection, final, home) == staged.sha256 and _has_size(final, staged.size_bytes):
        staged.path.unlink(missing_ok=True)  # the same model pulled again
        return stored
    final.parent.mkdir(parents=True, exist_ok=True)
    if not _link_twin(connection, staged, final, home):
        staged.path.replace(final)
    _sync_folder(final.parent)
    return stored


def _link_twin(connection: sqlite3.Connection, staged: Staged, final: Path, home: Path) -> bool:
    """Give `final` the bytes of a file with the same digest, so that they are stored once."""
    if staged.sha256 is None:
        return False
    for row in connection.execute(
        "SELECT DISTINCT path FROM file WHERE sha256 = ? AND owned", (staged.sha256,)
    ):
        twin = home / row["path"]
        if not _has_size(twin, staged.size_bytes) or twin == final:
            continue
        try:
            temporary = final.with_name(f"{final.name}.{os.getpid()}.link")
            os.link(twin, temporary)
            temporary.replace(final)
        except OSError:
            return False  # another file system, or one without links: the bytes stay double
        staged.path.unlink(missing_ok=True)
        return True
    return False


def _folder(connection: sqlite3.Connection, arrival: Arrival, home: Path) -> Path:
    base = home.joinpath(
        "models", safe_component(arrival.source), safe_component(arrival.publisher)
    )
    mark = next((f.sha256 for f in arrival.files if f.sha256), None)
    marks = [arrival.ref.revision, mark]
    names = [
        arrival.repo,
        *(f"{arrival.repo}@{re.sub('[^0-9A-Za-z]', '', m)[:12]}" for m in marks if m),
    ]
    for name in names:
        folder = base / safe_component(name)
        if all(_free(connection, f, folder, home) for f in arrival.files if not f.in_place):
            return folder
    return base / safe_component(f"{arrival.repo}@{os.getpid()}")


def _free(connection: sqlite3.Connection, staged: Staged, folder: Path, home: Path) -> bool:
    final = folder.joinpath(*map(safe_component, Path(staged.name).parts))
    digest = _indexed(connection, final, home)
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
