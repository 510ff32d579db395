"""What no model needs: found, and removed after another look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Literal

from localllm.errors import DiskFull
from localllm.registry import manifest, removal, rows, work
from localllm.registry.datasets import unnamed_files
from localllm.registry.matrices import matrices
from localllm.registry.model import Model
from localllm.registry.store import Registry
from localllm.registry.upkeep import NEW_INDEX, files_below

GarbageKind = Literal["partial", "orphan", "manifest", "imatrix", "dataset"]


@dataclass(frozen=True)
class Garbage:
    """A file below the home that nothing refers to."""

    kind: GarbageKind
    path: Path
    size_bytes: int


def garbage(registry: Registry) -> tuple[Garbage, ...]:
    """Partial downloads, files, manifests and importance matrices without a model, and data sets
    that no model was made from.

    What another process is working on (its lock is held) is left out; while there is any such,
    all data sets are.
    """
    home = registry.home
    with registry.database.reading() as connection:
        models = rows.models(connection, home)
    needed = _needed(models, registry)
    orphans = [*files_below(home / "models"), *_loose_indexes(home)]
    found = [Garbage("orphan", p, s) for p, s in orphans if p not in needed]
    found += [
        Garbage("manifest", p, s) for p, s in files_below(registry.manifests) if p not in needed
    ]
    kept = files_below(home / "imatrix")
    found += [Garbage("imatrix", p, s) for p, s in kept if p not in needed]
    found += [Garbage("dataset", p, p.stat().st_size) for p in _datasets(models, home)]
    for path, size in files_below(home / "partial"):
        with work.abandoned(home, path) as is_abandoned:
            if is_abandoned:
                found.append(Garbage("partial", path, size))
    return tuple(found)


def sweep(registry: Registry, items: tuple[Garbage, ...]) -> int:
    """Delete `items`, each after another look at whether anyone needs it. Returns the bytes
    freed.

    Partial files are deleted under their locks, the rest under the index's, so that nothing
    that is landing now is taken for an orphan.
    """
    freed = 0
    for item in items:
        if item.kind == "partial":
            with work.abandoned(registry.home, item.path) as is_abandoned:
                freed += _deleted(item) if is_abandoned else 0
    rest = [item for item in items if item.kind != "partial"]
    if rest:
        freed += _sweep_indexed(registry, rest)
    return freed


def _sweep_indexed(registry: Registry, items: list[Garbage]) -> int:
    try:
        with registry.database.writing() as connection:
            return _sweep_rest(registry, connection, items)
    except DiskFull:
        # The index has no room for a transaction, so nobody is in one: a look will do.
        with registry.database.reading() as connection:
            return _sweep_rest(registry, connection, items)


def _sweep_rest(registry: Registry, connection: Connection, items: list[Garbage]) -> int:
    models = rows.models(connection, registry.home)
    needed, spare = _needed(models, registry), set(_datasets(models, registry.home))
    freed = sum(
        _deleted(item)
        for item in items
        if (item.path in spare if item.kind == "dataset" else item.path not in needed)
    )
    for top in (registry.home / "models", registry.home / "datasets"):
        for folder in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
            removal.drop_empty(folder, top)
    return freed


def _datasets(models: list[Model], home: Path) -> list[Path]:
    """Those that nobody needs: a run may be reading what no model names yet."""
    return [] if work.anyone(home) else unnamed_files(models, home)


def _needed(models: list[Model], registry: Registry) -> set[Path]:
    files = {f.path for m in models for f in m.files}
    files |= {path for m in models for path in matrices(registry, m.name)}
    return files | {manifest.path_for(registry.manifests, m.name) for m in models}


def _deleted(item: Garbage) -> int:
    try:
        item.path.unlink()
    except (FileNotFoundError, PermissionError):  # Windows: open somewhere
        return 0
    return item.size_bytes


def _loose_indexes(home: Path) -> Iterator[tuple[Path, int]]:
    """What a rebuild that was killed left of the index it was making."""
    for path in sorted(home.glob(f"{NEW_INDEX}*")):
        yield path, path.stat().st_size
