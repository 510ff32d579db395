"""What no model needs, and making the index again from what lies on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from localllm.errors import DamagedFile, LocalLLMError, RegistryBroken
from localllm.refs import ModelRef
from localllm.registry import manifest, rows
from localllm.registry.model import Model, StoredFile
from localllm.registry.store import Registry

GarbageKind = Literal["partial", "orphan", "manifest", "lock"]


@dataclass(frozen=True)
class Garbage:
    """A file below the home that nothing refers to."""

    kind: GarbageKind
    path: Path
    size_bytes: int


def garbage(registry: Registry) -> tuple[Garbage, ...]:
    """Partial downloads, files without a model, manifests without a row, old locks.

    What another process is working on (its lock is held) is left out.
    """
    home = registry.home
    known = {f.path for m in registry.models() for f in m.files if f.owned}
    manifests = {manifest.path_for(registry.manifests, m.name) for m in registry.models()}
    found = [Garbage("orphan", p, s) for p, s in _files(home / "models") if p not in known]
    found += [
        Garbage("manifest", p, s) for p, s in _files(registry.manifests) if p not in manifests
    ]
    found += [Garbage("partial", p, s) for p, s in _files(home / "partial") if not _in_use(p)]
    found += [Garbage("lock", p, s) for p, s in _files(home / "locks") if not _held(p)]
    return tuple(found)


def sweep(registry: Registry, items: tuple[Garbage, ...]) -> int:
    """Delete `items`, under the index's lock so that nothing landing now is taken for an
    orphan. Returns the bytes freed."""
    freed = 0
    with registry.database.writing() as connection:
        known = {f.path for m in rows.models(connection, registry.home) for f in m.files}
        for item in items:
            if item.path in known or (item.kind == "lock" and _held(item.path)):
                continue
            try:
                item.path.unlink()
            except FileNotFoundError:
                continue
            freed += item.size_bytes
    for top in ("models", "partial"):
        _drop_empty(registry.home / top)
    return freed


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file() or path.is_symlink():
                yield path, path.lstat().st_size
        except OSError:
            continue  # gone meanwhile


def _held(path: Path) -> bool:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


_FRESH_S = 60.0


def _in_use(path: Path) -> bool:
    """A partial file written to within the last minute may belong to a running pull."""
    try:
        return time.time() - path.stat().st_mtime < _FRESH_S
    except OSError:
        return True


def _drop_empty(top: Path) -> None:
    for folder in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
        try:
            folder.rmdir()
        except OSError:
            continue


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
    or None. Measurements are taken over from the old index as far as it can be read.
    """
    home = registry.home
    found, skipped = _from_manifests(registry)
    claimed = {f.path for m in found for f in m.files}
    strays: list[Model] = []
    for path, _ in _files(home / "models"):
        if path not in claimed and (model := describe(path)) is not None:
            strays.append(model)
            claimed |= {f.path for f in model.files}
    kept = _salvage(registry)
    old = _set_aside(registry)
    names = {m.name.casefold() for m in found}
    with registry.database.writing() as connection:
        for model in found:
            rows.insert(connection, model, home)
        for model in strays:
            free = _free_name(model.name, names)
            named = replace(model, name=free)
            rows.insert(connection, named, home)
            manifest.write(registry.manifests, named, home)
        connection.executemany(
            "INSERT INTO measurement (model_name, sha256, kind, made_at, data)"
            " VALUES (?, ?, ?, ?, ?)",
            kept,
        )
    total = len(found) + len(strays)
    return Rebuilt(total, len(found), len(strays), len(kept), tuple(skipped), old)


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


def _set_aside(registry: Registry) -> Path | None:
    """Move the old index away; it is deleted only by the user."""
    path = registry.database.path
    if not path.exists():
        return None
    aside = path.with_name(f"registry.{time.strftime('%Y%m%d-%H%M%S')}.old.db")
    try:
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as e:
        raise RegistryBroken(f"{path} cannot be moved: {e.strerror}") from None
    return aside


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


__all__ = ["Garbage", "ModelRef", "Rebuilt", "garbage", "rebuild", "ref_from_path", "sweep"]
