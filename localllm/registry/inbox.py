"""Questions that wait for a person, in the private file beside the index (chats.db)."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.errors import NotFound, UsageProblem
from localllm.registry import schema
from localllm.registry.database import Database
from localllm.registry.store import Registry

_MEND = "move it away; a new one is made"
WAITING, ANSWERED, EXPIRED, WITHDRAWN = "waiting", "answered", "expired", "withdrawn"
MAX_ANSWER = 1 << 20  # characters


@dataclass(frozen=True)
class InboxItem:
    """A question. `messages` are role and content each; `draft` is what a model would say.
    Times in seconds since the epoch; after `expires_at` nobody waits for the answer."""

    id: int
    router: str
    decision_id: int | None
    asked_at: float
    expires_at: float
    messages: tuple[Mapping[str, Any], ...]
    draft: str | None
    state: str
    answer: str | None
    answered_at: float | None

    @property
    def question(self) -> str:
        """The last thing that was asked."""
        said = (m["content"] for m in reversed(self.messages) if m.get("role") == "user")
        return str(next(said, ""))


class Inbox:
    """The inbox of one home. Opening touches nothing; reading never writes."""

    def __init__(self, registry: Registry) -> None:
        path = registry.home / "chats.db"
        self.database = Database(path, schema.CHATS, private=True, mend=_MEND)

    def list(self, router: str | None = None, *, every: bool = False) -> tuple[InboxItem, ...]:
        """Those that wait, the oldest first; with `every` also those that do no more."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT * FROM inbox WHERE (:router IS NULL OR router = :router)"
                " AND (:every OR state = 'waiting') ORDER BY asked_at, id",
                {"router": router, "every": every},
            ).fetchall()
        found = [_item(row) for row in rows]
        now = time.time()
        return tuple(one for one in found if every or one.expires_at > now)

    def find(self, number: int) -> InboxItem:
        """Raises NotFound."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT * FROM inbox WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise NotFound(f"there is no question {number}", "localllm route inbox list")
        return _item(row)

    def ask(
        self, router: str, messages: Sequence[Mapping[str, Any]], wait_s: float,
        decision: int | None = None, draft: str | None = None,
    ) -> int:  # fmt: skip
        """Let a question wait for `wait_s` seconds; its number."""
        now = time.time()
        text = json.dumps([dict(one) for one in messages])
        with self.database.writing() as connection:
            cursor = connection.execute(
                "INSERT INTO inbox (router, decision_id, asked_at, expires_at, question, draft,"
                " state) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (router, decision, now, now + wait_s, text, draft, WAITING),
            )
            return int(cursor.lastrowid or 0)

    def answer(self, number: int, text: str) -> InboxItem:
        """Answer a question that waits; one answer counts, the first. Raises NotFound, and
        UsageProblem for an empty answer or a question that nobody waits for any more."""
        if not text.strip() or len(text) > MAX_ANSWER:
            raise UsageProblem(f"an answer has 1 to {MAX_ANSWER} characters")
        item = self.find(number)
        now = time.time()
        with self.database.writing() as connection:
            done = connection.execute(
                "UPDATE inbox SET state = 'answered', answer = ?, answered_at = ?"
                " WHERE id = ? AND state = 'waiting' AND expires_at > ?",
                (text.encode("utf-8", "replace").decode("utf-8"), now, number, now),
            )
            if done.rowcount == 0:
                state = EXPIRED if item.state == WAITING else item.state
                raise UsageProblem(f"question {number} is {state}: nobody waits for it")
        return self.find(number)

    def end(self, number: int, state: str) -> bool:
        """A question that is given up: `expired` or `withdrawn`. False if it was answered."""
        with self.database.writing() as connection:
            done = connection.execute(
                "UPDATE inbox SET state = ? WHERE id = ? AND state = 'waiting'", (state, number)
            )
            return done.rowcount > 0


def _item(row: sqlite3.Row) -> InboxItem:
    return InboxItem(
        row["id"], row["router"], row["decision_id"], row["asked_at"], row["expires_at"],
        tuple(json.loads(row["question"])), row["draft"], row["state"], row["answer"],
        row["answered_at"],
    )  # fmt: skip
