"""Between rows and values."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localllm.refs import ModelRef
from localllm.registry.model import Lineage, Measurement, Model, StoredFile


def models(connection: sqlite3.Connection, home: Path, where: str = "", *args: Any) -> list[Model]:
    """Models in the order of their names; `where` is an SQL condition on `model`."""
    condition = f"WHERE {where}" if where else ""
    rows = connection.execute(f"SELECT * FROM model {condition} ORDER BY name", args).fetchall()
    chosen = f"SELECT id FROM model {condition}"
    files: dict[int, list[StoredFile]] = {}
    for row in connection.execute(
        f"SELECT * FROM file WHERE model_id IN ({chosen}) ORDER BY model_id, position", args
    ):
        files.setdefault(row["model_id"], []).append(_file(row, home))
    aliases: dict[int, list[str]] = {}
    for row in connection.execute(
        f"SELECT * FROM alias WHERE model_id IN ({chosen}) ORDER BY name", args
    ):
        aliases.setdefault(row["model_id"], []).append(row["name"])
    lineages = {
        row["model_id"]: lineage(json.loads(row["data"]))
        for row in connection.execute(f"SELECT * FROM lineage WHERE model_id IN ({chosen})", args)
    }
    return [
        _model(row, files.get(row["id"], []), aliases.get(row["id"], []), lineages.get(row["id"]))
        for row in rows
    ]


def _file(row: sqlite3.Row, home: Path) -> StoredFile:
    return StoredFile(
        name=row["name"],
        path=home / row["path"],  # an absolute path stands as it is
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        role=row["role"],
        owned=bool(row["owned"]),
    )


def _model(
    row: sqlite3.Row, files: list[StoredFile], aliases: list[str], lineage: Lineage | None
) -> Model:
    return Model(
        id=row["id"],
        name=row["name"],
        ref=ModelRef.parse(row["ref"]),
        format=row["format"],
        source=row["source"],
        publisher=row["publisher"],
        repo=row["repo"],
        variant=row["variant"],
        architecture=row["architecture"],
        file_type=row["file_type"],
        n_params=row["n_params"],
        n_ctx_train=row["n_ctx_train"],
        files=tuple(files),
        added_at=row["added_at"],
        aliases=tuple(aliases),
        lineage=lineage,
        extras=json.loads(row["extras"]),
    )


def endpoints(connection: sqlite3.Connection) -> frozenset[str]:
    """The names of servers elsewhere, case folded."""
    return frozenset(row[0].casefold() for row in connection.execute("SELECT name FROM endpoint"))


def measurement(row: sqlite3.Row) -> Measurement:
    return Measurement(
        id=row["id"],
        model=row["model_name"],
        sha256=row["sha256"],
        kind=row["kind"],
        made_at=row["made_at"],
        data=json.loads(row["data"]),
    )


def lineage(data: Mapping[str, Any]) -> Lineage:
    """From its JSON form."""
    parents = tuple((str(name), digest) for name, digest in data["parents"])
    return Lineage(**{**data, "parents": parents})


def lineage_json(value: Lineage) -> dict[str, Any]:
    """Its JSON form, as the index, the manifest and GGUF metadata hold it."""
    return dataclasses.asdict(value)


COLUMNS = (
    "name", "ref", "format", "source", "publisher", "repo", "variant", "architecture",
    "file_type", "n_params", "n_ctx_train", "added_at", "extras",
)  # fmt: skip


def insert(connection: sqlite3.Connection, model: Model, home: Path) -> int:
    """Write a model with its files, aliases and lineage; an existing one of the same name
    is replaced and keeps its id and aliases. Returns the id."""
    values = [getattr(model, c) for c in COLUMNS[:-1]] + [json.dumps(dict(model.extras))]
    values[1] = str(model.ref)
    known = connection.execute("SELECT id FROM model WHERE name = ?", (model.name,)).fetchone()
    if known is None:
        marks = ", ".join("?" * len(COLUMNS))
        cursor = connection.execute(
            f"INSERT INTO model ({', '.join(COLUMNS)}) VALUES ({marks})", values
        )
        model_id = int(cursor.lastrowid or 0)
    else:
        model_id = int(known["id"])
        sets = ", ".join(f"{c} = ?" for c in COLUMNS)
        connection.execute(f"UPDATE model SET {sets} WHERE id = ?", [*values, model_id])
        connection.execute("DELETE FROM file WHERE model_id = ?", (model_id,))
        connection.execute("DELETE FROM lineage WHERE model_id = ?", (model_id,))
    connection.executemany(
        "INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (model_id, n, f.name, stored_path(f, home), f.size_bytes, f.sha256, f.role, f.owned)
            for n, f in enumerate(model.files)
        ],
    )
    connection.executemany(
        "INSERT OR IGNORE INTO alias VALUES (?, ?)", [(a, model_id) for a in model.aliases]
    )
    if model.lineage is not None:
        connection.execute(
            "INSERT INTO lineage VALUES (?, ?)", (model_id, json.dumps(lineage_json(model.lineage)))
        )
    return model_id


def stored_path(file: StoredFile, home: Path) -> str:
    """Relative to the home where the file is ours, so that a home can be moved."""
    return file.path.relative_to(home).as_posix() if file.owned else str(file.path)
