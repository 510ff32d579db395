"""Servers elsewhere that have a name here.

    endpoints = Endpoints.of(registry)
    endpoints.add("gpt", {"url": "http://10.0.0.7:8000/v1", "model": "gpt-oss"})

What is known of each is plain data, which the package `endpoints` gives its meaning. A name means
one thing only: what is a model or a second name cannot be an endpoint, and a model that comes
later by an endpoint's name is called `name-2`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from sqlite3 import Connection, Row
from typing import Any

from localllm.errors import ModelNotFound, UsageProblem
from localllm.refs import ModelRef
from localllm.registry import rows
from localllm.registry.database import Database
from localllm.registry.resolve import pick
from localllm.registry.store import Registry


@dataclass(frozen=True)
class KeptEndpoint:
    """`data` as it was added; `added_at` in seconds since the epoch."""

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    added_at: float = 0.0


class Endpoints:
    """The endpoints of one registry. Reading never writes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @classmethod
    def of(cls, registry: Registry) -> Endpoints:
        return cls(registry)

    @property
    def database(self) -> Database:
        return self._registry.database

    def list(self) -> tuple[KeptEndpoint, ...]:
        """All of them, by name."""
        with self.database.reading() as connection:
            found = connection.execute("SELECT * FROM endpoint ORDER BY name").fetchall()
        return tuple(map(_kept, found))

    def find(self, name: str) -> KeptEndpoint | None:
        """The endpoint of this name, in whatever case; None where there is none."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT * FROM endpoint WHERE name = ?", (name,)).fetchone()
        return None if row is None else _kept(row)

    def add(self, name: str, data: Mapping[str, Any], *, replace: bool = False) -> KeptEndpoint:
        """Keep `data` (plain data, no key) under `name`. Raises UsageProblem where the name is
        taken; with `replace` only by a model."""
        made = KeptEndpoint(name, dict(data), time.time())
        with self.database.writing() as connection:
            self._check_free(connection, name)
            if name.casefold() in rows.endpoints(connection) and not replace:
                raise UsageProblem(f"there is an endpoint {name} already", "--replace")
            connection.execute("DELETE FROM endpoint WHERE name = ?", (name,))
            connection.execute(
                "INSERT INTO endpoint VALUES (?, ?, ?)",
                (name, json.dumps(made.data), made.added_at),
            )
        return made

    def remove(self, name: str) -> bool:
        """Forget it. False where there is none."""
        with self.database.writing() as connection:
            gone = connection.execute("DELETE FROM endpoint WHERE name = ?", (name,))
            return gone.rowcount > 0

    def _check_free(self, connection: Connection, name: str) -> None:
        """Also of short names: who says `gemma` and means org/gemma must go on meaning it."""
        try:
            model = pick(rows.models(connection, self._registry.home), ModelRef.parse(name))
        except ModelNotFound:
            return
        raise UsageProblem(
            f"{name!r} names the model {model.name}", "give the endpoint another name"
        )


def _kept(row: Row) -> KeptEndpoint:
    return KeptEndpoint(row["name"], json.loads(row["data"]), row["added_at"])
