"""The tables, and how an older index becomes a newer one.

`PRAGMA user_version` is the number of migrations applied. A migration is never edited
after a release; a change is a new one at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

MIGRATIONS = (
    """
    CREATE TABLE model (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE COLLATE NOCASE,
        ref TEXT NOT NULL,
        format TEXT NOT NULL,
        source TEXT NOT NULL,
        publisher TEXT NOT NULL,
        repo TEXT NOT NULL,
        variant TEXT,
        architecture TEXT,
        file_type TEXT,
        n_params INTEGER,
        n_ctx_train INTEGER,
        added_at REAL NOT NULL,
        extras TEXT NOT NULL DEFAULT '{}'
    );
    CREATE TABLE file (
        model_id INTEGER NOT NULL REFERENCES model(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        path TEXT NOT NULL,          -- relative to the home where owned, else absolute
        size_bytes INTEGER NOT NULL,
        sha256 TEXT,
        role TEXT NOT NULL,
        owned INTEGER NOT NULL,
        PRIMARY KEY (model_id, position)
    );
    CREATE INDEX file_sha256 ON file(sha256);
    CREATE INDEX file_path ON file(path);
    CREATE TABLE alias (
        name TEXT PRIMARY KEY COLLATE NOCASE,
        model_id INTEGER NOT NULL REFERENCES model(id) ON DELETE CASCADE
    );
    CREATE TABLE lineage (
        model_id INTEGER PRIMARY KEY REFERENCES model(id) ON DELETE CASCADE,
        data TEXT NOT NULL
    );
    CREATE TABLE measurement (
        id INTEGER PRIMARY KEY,
        model_name TEXT NOT NULL COLLATE NOCASE,  -- kept when the model is removed
        sha256 TEXT,
        kind TEXT NOT NULL,
        made_at REAL NOT NULL,
        data TEXT NOT NULL
    );
    CREATE INDEX measurement_model ON measurement(model_name, kind);
    """,
)
# Conversations have a file of their own (chats.db): it is private where the index may be shared,
# and rebuilding the index, which can be made again from the models, must not touch what cannot.
CHATS = (
    """
    CREATE TABLE chat (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- a number is never used again
        title TEXT NOT NULL,
        model_name TEXT NOT NULL,
        started_at REAL NOT NULL,
        changed_at REAL NOT NULL,
        data TEXT NOT NULL DEFAULT '{}'
    );
    CREATE TABLE message (
        chat_id INTEGER NOT NULL REFERENCES chat(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        made_at REAL NOT NULL,
        data TEXT NOT NULL DEFAULT '{}',
        PRIMARY KEY (chat_id, position)
    );
    CREATE TABLE attachment (
        chat_id INTEGER NOT NULL,
        position INTEGER NOT NULL,
        number INTEGER NOT NULL,
        content BLOB NOT NULL,
        PRIMARY KEY (chat_id, position, number),
        FOREIGN KEY (chat_id, position) REFERENCES message(chat_id, position) ON DELETE CASCADE
    );
    """,
)


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the file to the last of `migrations` inside the caller's write transaction."""
    version = version_of(connection)
    for number, script in enumerate(migrations[version:], start=version + 1):
        for statement in _statements(script):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")


def version_of(connection: sqlite3.Connection) -> int:
    """Migrations applied so far; 0 for a new file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> list[str]:
    """`executescript` would commit the transaction first, so one at a time."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found
