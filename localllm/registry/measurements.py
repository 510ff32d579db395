"""Measurements in the index: figures that were measured on a model, kept when it is removed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from localllm.registry import rows
from localllm.registry.database import Database
from localllm.registry.model import Measurement, Model


class Measurements:
    """The part of the Registry that keeps figures."""

    database: Database

    def measurements(self, model: Model, kind: str | None = None) -> tuple[Measurement, ...]:
        """What was measured on `model`, newest first."""
        with self.database.reading() as connection:
            found = connection.execute(
                "SELECT * FROM measurement WHERE model_name = :name"
                " AND (:kind IS NULL OR kind = :kind) ORDER BY made_at DESC, id DESC",
                {"name": model.name, "kind": kind},
            ).fetchall()
        return tuple(rows.measurement(row) for row in found)

    def measurement(self, number: int) -> Measurement | None:
        """The measurement of this id, None where there is none."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT * FROM measurement WHERE id = ?", (number,)).fetchone()
        return rows.measurement(row) if row else None

    def measurements_of_kind(self, kind: str) -> tuple[Measurement, ...]:
        """What was measured on any model, removed ones too, newest first."""
        with self.database.reading() as connection:
            found = connection.execute(
                "SELECT * FROM measurement WHERE kind = ? ORDER BY made_at DESC, id DESC", (kind,)
            ).fetchall()
        return tuple(rows.measurement(row) for row in found)

    def record(self, model: Model, kind: str, data: Mapping[str, Any]) -> int:
        """Keep a measurement of `model`. Returns its id."""
        with self.database.writing() as connection:
            cursor = connection.execute(
                "INSERT INTO measurement (model_name, sha256, kind, made_at, data)"
                " VALUES (?, ?, ?, ?, ?)",
                (model.name, model.digest, kind, time.time(), json.dumps(dict(data))),
            )
            return int(cursor.lastrowid or 0)

    def revise(self, number: int, data: Mapping[str, Any]) -> None:
        """Replace what measurement `number` says: one that grows while it is made."""
        with self.database.writing() as connection:
            connection.execute(
                "UPDATE measurement SET data = ? WHERE id = ?", (json.dumps(dict(data)), number)
            )
