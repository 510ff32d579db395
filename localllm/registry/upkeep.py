"""Making the index again from what lies on disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from sqlite3 import Connection

from localllm.errors import DamagedFile, LocalLLMError, RegistryBroken
from localllm.registry import manifest, routers, rows
from localllm.registry.database import Database, unwritable
from localllm.registry.model import Model, StoredFile
from localllm.registry.store import Registry

NEW_INDEX = "rebuilding"  # what the names of one begin with while it is made


@dataclass(frozen=True)
class Rebuilt:
    models: int
    from_manifests: int
    from_files: int
    measurements: int
    skipped: tuple[str, ...]  # what could not be used, and why
    old_index: Path | None  # a damaged index is kept beside the new one


Describe = Callable[[Path], Model | None]


def rebuild(registry: Registry, describe: Describe) -> Rebuilt:
    """Make the index again from the manifests and the files.

    `describe` makes a model of a file that no manifest names (from its path and header),
    or None. Measurements and endpoints are taken over from the old index as far as it can be
    read, and a copy of it is kept. Killed at any moment, the old index is in place or the new one.
    """
    with registry.lock("rebuild"):
        if _is_sound(registry):
            old = _copied(registry)
            with registry.database.writing() as connection:
                kept = _count(connection, "measurement")
                connection.execute("DELETE FROM model")
                return _refill(registry, connection, describe, kept, old)
        return _replaced(registry, describe)


def _is_sound(registry: Registry) -> bool:
    """Whether the index is there and whole, by SQLite's own check."""
    if not registry.database.path.is_file():
        return False
    try:
        with registry.database.reading() as connection:
            return [row[0] for row in connection.execute("PRAGMA quick_check")] == ["ok"]
    except RegistryBroken:
        return False


def _replaced(registry: Registry, describe: Describe) -> Rebuilt:
    """A new index beside the damaged one, which it takes the place of when it is complete."""
    path = registry.database.path
    fresh = Database(path.with_name(f"{NEW_INDEX}.{os.getpid()}.db"))
    kept, endpoints = _salvage(registry), _salvaged_endpoints(registry)
    try:
        with fresh.writing() as connection:
            connection.executemany("INSERT INTO endpoint VALUES (?, ?, ?)", endpoints)
            connection.executemany(
                "INSERT INTO measurement (model_name, sha256, kind, made_at, data)"
                " VALUES (?, ?, ?, ?, ?)",
                kept,
            )
            routers.restore(connection, registry.home)
            old = _aside(path) if path.exists() else None
            rebuilt = _refill(registry, connection, describe, len(kept), old)
        if old is not None:
            _kept(path, old)
        for suffix in ("-wal", "-shm"):  # they are the damaged one's
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        fresh.path.replace(path)
    except OSError as e:
        raise unwritable(path, e) from None
    finally:
        for left in fresh.path.parent.glob(f"{fresh.path.name}*"):
            left.unlink(missing_ok=True)
    return rebuilt


def _refill(
    registry: Registry, connection: Connection, describe: Describe, kept: int, old: Path | None
) -> Rebuilt:
    """Rows for what the manifests name, then for files that none names."""
    found, skipped = _from_manifests(registry)
    claimed = {f.path for m in found for f in m.files}
    strays: list[Model] = []
    for path, _ in files_below(registry.home / "models"):
        if path not in claimed and (model := describe(path)) is not None:
            strays.append(model)
            claimed |= {f.path for f in model.files}
    names = {m.name.casefold() for m in found}
    for model in found:
        rows.insert(connection, model, registry.home)
    for model in strays:
        named = replace(model, name=_free_name(model.name, names))
        rows.insert(connection, named, registry.home)
        manifest.write(registry.manifests, named, registry.home)
    total = len(found) + len(strays)
    return Rebuilt(total, len(found), len(strays), kept, tuple(skipped), old)


def _from_manifests(registry: Registry) -> tuple[list[Model], list[str]]:
    found: list[Model] = []
    skipped: list[str] = []
    for path in sorted(registry.manifests.glob("*.json")):
        try:
            model = manifest.read(path, registry.home)
        except DamagedFile as e:
            skipped.append(e.message)
            continue
        gone = [f for f in model.files if not _same_size(f)]
        if gone:
            skipped.append(f"{model.name}: {gone[0].path} is gone or has another size")
        else:
            found.append(model)
    return found, skipped


def _same_size(file: StoredFile) -> bool:
    try:
        return file.path.stat().st_size == file.size_bytes
    except OSError:
        return False


def _salvage(registry: Registry) -> list[tuple[str, str | None, str, float, str]]:
    try:
        with registry.database.reading() as connection:
            return [
                tuple(row)
                for row in connection.execute(
                    "SELECT model_name, sha256, kind, made_at, data FROM measurement ORDER BY id"
                )
            ]
    except LocalLLMError:
        return []


def _salvaged_endpoints(registry: Registry) -> list[tuple[str, str, float]]:
    try:
        with registry.database.reading() as connection:
            return [tuple(row) for row in connection.execute("SELECT * FROM endpoint")]
    except LocalLLMError:
        return []


def _copied(registry: Registry) -> Path:
    """A copy of the index as it is now. Raises DiskFull."""
    aside = _aside(registry.database.path)
    copy = aside.with_name(f"{NEW_INDEX}.{os.getpid()}.copy")
    try:
        with registry.database.reading() as connection, closing(sqlite3.connect(copy)) as target:
            connection.backup(target)
        copy.replace(aside)
    finally:
        copy.unlink(missing_ok=True)
    return aside


def _kept(path: Path, aside: Path) -> None:
    """Keep a damaged index under another name too; it stays in place until the new one is."""
    try:
        os.link(path, aside)
    except OSError:  # a file system without links
        shutil.copyfile(path, aside)


def _aside(path: Path) -> Path:
    """Where an old index is kept; it is deleted only by the user."""
    return path.with_name(f"registry.{time.strftime('%Y%m%d-%H%M%S')}.{os.getpid()}.old.db")


def _count(connection: Connection, table: str) -> int:
    return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def _free_name(name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while candidate.casefold() in taken:
        candidate, number = f"{name}-{number}", number + 1
    taken.add(candidate.casefold())
    return candidate


def ref_from_path(registry: Registry, path: Path) -> tuple[str, str, str, str] | None:
    """(source, publisher, repo, file name) of a file below `models/`, or None."""
    parts = path.relative_to(registry.home / "models").parts
    if len(parts) < 4:
        return None
    return parts[0], parts[1], parts[2].partition("@")[0], "/".join(parts[3:])


def files_below(folder: Path) -> Iterator[tuple[Path, int]]:
    """Each file with its size, in order."""
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file() or path.is_symlink():
                yield path, path.lstat().st_size
        except OSError:
            continue  # gone meanwhile
