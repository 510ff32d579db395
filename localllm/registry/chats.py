"""Conversations that were kept, in a file of their own that only its owner may read.

    chats = Chats.of(registry)
    number = chats.begin("org/model", "first words of it")
    chats.write(number, 0, [KeptMessage("user", "Hi")], model="org/model")

Every call is one transaction: what it wrote survives a kill that comes after it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from localllm.errors import LocalLLMError, NotFound
from localllm.registry import schema
from localllm.registry.database import Database
from localllm.registry.store import Registry

_TICK_S = 1e-5  # by which two changes lie apart at least
_MEND = "move it away; a new one is made"


class ChangedMeanwhile(LocalLLMError):
    """Another program wrote to the conversation since it was read."""


@dataclass(frozen=True)
class KeptMessage:
    """One message as it was said. `data` is plain data beside it (thinking, the model that
    answered); `attachments` are images as they came."""

    role: str
    content: str
    data: Mapping[str, Any] = field(default_factory=dict)
    attachments: tuple[bytes, ...] = ()
    made_at: float = 0.0  # seconds since the epoch; 0 = when it is written


@dataclass(frozen=True)
class KeptChat:
    """A conversation without its messages. Times in seconds since the epoch."""

    id: int
    title: str
    model: str
    started_at: float
    changed_at: float
    n_messages: int
    data: Mapping[str, Any] = field(default_factory=dict)


class Chats:
    """The conversations of one home. Opening touches nothing; reading never writes."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    def of(cls, registry: Registry) -> Chats:
        path = registry.home / "chats.db"
        return cls(Database(path, schema.CHATS, private=True, mend=_MEND))

    # --- reading ------------------------------------------------------------------------

    def list(self) -> tuple[KeptChat, ...]:
        """All of them, the one changed last first."""
        with self.database.reading() as connection:
            return tuple(_chats(connection))

    def latest(self) -> KeptChat:
        """The one changed last. Raises NotFound where none is kept."""
        with self.database.reading() as connection:
            found = _chats(connection, limit=1)
        if not found:
            raise NotFound("no conversation is kept", "localllm chat MODEL")
        return found[0]

    def find(self, number: int) -> KeptChat:
        """Raises NotFound."""
        with self.database.reading() as connection:
            found = _chats(connection, number)
        if not found:
            raise NotFound(f"no conversation {number} is kept", "localllm chats")
        return found[0]

    def saying(self, text: str) -> tuple[KeptChat, ...]:
        """Those in which `text` was said, in whatever case."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT DISTINCT chat_id FROM message WHERE instr(lower(content), lower(?)) > 0",
                (_storable(text),),
            )
            found = {row["chat_id"] for row in rows}
            return tuple(chat for chat in _chats(connection) if chat.id in found)

    def messages(self, number: int) -> tuple[KeptMessage, ...]:
        """Those of conversation `number`, in order."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT * FROM message WHERE chat_id = ? ORDER BY position", (number,)
            ).fetchall()
            blobs: dict[int, list[bytes]] = {}
            for row in connection.execute(
                "SELECT position, content FROM attachment WHERE chat_id = ?"
                " ORDER BY position, number",
                (number,),
            ):
                blobs.setdefault(row["position"], []).append(bytes(row["content"]))
        return tuple(
            KeptMessage(
                row["role"], row["content"], json.loads(row["data"]),
                tuple(blobs.get(row["position"], ())), row["made_at"],
            )
            for row in rows
        )  # fmt: skip

    # --- writing ------------------------------------------------------------------------

    def begin(self, model: str, title: str, data: Mapping[str, Any] | None = None) -> int:
        """A new, empty conversation; its number."""
        now = time.time()
        with self.database.writing() as connection:
            cursor = connection.execute(
                "INSERT INTO chat (title, model_name, started_at, changed_at, data)"
                " VALUES (?, ?, ?, ?, ?)",
                (_storable(title), model, now, now, json.dumps(dict(data or {}))),
            )
            return int(cursor.lastrowid or 0)

    def write(
        self,
        number: int,
        start: int,
        messages: Sequence[KeptMessage],
        *,
        model: str,
        title: str | None = None,
        since: float | None = None,
    ) -> float:
        """Let `messages` stand from position `start` on, in place of all that stood there; its
        `changed_at` after that. `since` is the `changed_at` that it was read with: what another
        program wrote after that is not written over.

        Raises NotFound where the conversation was removed meanwhile, ChangedMeanwhile.
        """
        now = time.time()
        with self.database.writing() as connection:
            row = connection.execute(
                "SELECT changed_at FROM chat WHERE id = ?", (number,)
            ).fetchone()
            if row is None:
                raise NotFound(f"conversation {number} was removed", "localllm chats")
            last = float(row["changed_at"])
            if since is not None and last != since:
                raise ChangedMeanwhile(f"conversation {number} went on in another program")
            now = max(now, last + _TICK_S)  # a clock may stand, or be set back
            connection.execute(
                "UPDATE chat SET changed_at = ?, model_name = ?, title = coalesce(?, title)"
                " WHERE id = ?",
                (now, model, None if title is None else _storable(title), number),
            )
            connection.execute(
                "DELETE FROM message WHERE chat_id = ? AND position >= ?", (number, start)
            )
            for position, message in enumerate(messages, start):
                _insert(connection, number, position, message, now)
        return now

    def remove(self, number: int) -> None:
        """Forget conversation `number`, and leave nothing of it in the file. Raises NotFound."""
        with self.database.writing() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            if connection.execute("DELETE FROM chat WHERE id = ?", (number,)).rowcount == 0:
                raise NotFound(f"no conversation {number} is kept", "localllm chats")


def _insert(
    connection: sqlite3.Connection, number: int, position: int, message: KeptMessage, now: float
) -> None:
    connection.execute(
        "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)",
        (
            number,
            position,
            message.role,
            _storable(message.content),
            message.made_at or now,
            json.dumps(dict(message.data)),
        ),
    )
    connection.executemany(
        "INSERT INTO attachment VALUES (?, ?, ?, ?)",
        [(number, position, n, blob) for n, blob in enumerate(message.attachments)],
    )


def _chats(
    connection: sqlite3.Connection, number: int | None = None, limit: int = -1
) -> list[KeptChat]:
    rows = connection.execute(
        "SELECT *, (SELECT count(*) FROM message WHERE chat_id = chat.id) AS n_messages FROM chat"
        " WHERE :number IS NULL OR id = :number ORDER BY changed_at DESC, id DESC LIMIT :limit",
        {"number": number, "limit": limit},
    )
    return [
        KeptChat(
            row["id"], row["title"], row["model_name"], row["started_at"], row["changed_at"],
            row["n_messages"], json.loads(row["data"]),
        )
        for row in rows
    ]  # fmt: skip


def _storable(text: str) -> str:
    """Text that SQLite can keep: a lone surrogate, as bad input becomes, is no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
