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
    # Servers elsewhere (registry.endpoints)
    """
    CREATE TABLE endpoint (
        name TEXT PRIMARY KEY COLLATE NOCASE,
        data TEXT NOT NULL,          -- never a key, only where it is
        added_at REAL NOT NULL
    );
    """,
    # Routers: what each version is lies in files, this is where to find them (registry.routers)
    """
    CREATE TABLE router (
        name TEXT PRIMARY KEY COLLATE NOCASE,
        version INTEGER NOT NULL,    -- the one that is used
        added_at REAL NOT NULL
    );
    CREATE TABLE router_version (
        router TEXT NOT NULL COLLATE NOCASE REFERENCES router(name) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        made_at REAL NOT NULL,
        made_by TEXT NOT NULL,
        sha256 TEXT,                 -- of what it learned, NULL where it learned nothing
        PRIMARY KEY (router, number)
    );
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
    # Decisions of routers, what people thought of the answers, and questions that wait for one.
    # They hold prompts, so they lie here and not in the index.
    """
    CREATE TABLE decision (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        router TEXT NOT NULL COLLATE NOCASE,
        version INTEGER NOT NULL,
        made_at REAL NOT NULL,
        member TEXT NOT NULL,        -- that answered; "" where none could
        chosen TEXT NOT NULL,        -- before anything failed
        probability REAL,
        threshold REAL,
        cost REAL,
        prompt TEXT,                 -- NULL where prompts are not kept
        data TEXT NOT NULL DEFAULT '{}'
    );
    CREATE INDEX decision_router ON decision(router, made_at);
    CREATE TABLE vote (
        decision_id INTEGER NOT NULL REFERENCES decision(id) ON DELETE CASCADE,
        made_at REAL NOT NULL,
        source TEXT NOT NULL,        -- who: a chat, a client's address, the command line
        verdict TEXT NOT NULL,       -- good, bad, or the member that is better
        PRIMARY KEY (decision_id, source)
    );
    CREATE TABLE inbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        router TEXT NOT NULL COLLATE NOCASE,
        decision_id INTEGER REFERENCES decision(id) ON DELETE SET NULL,
        asked_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        question TEXT NOT NULL,      -- the conversation, as JSON
        draft TEXT,                  -- what a model would say, to be approved or edited
        state TEXT NOT NULL,         -- waiting, answered, expired, withdrawn
        answer TEXT,
        answered_at REAL
    );
    CREATE INDEX inbox_state ON inbox(state, asked_at);
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
