"""What routers decided and what people thought of it, in the private file beside the index
(chats.db): decisions hold prompts."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localllm.errors import NotFound, UsageProblem
from localllm.registry import schema
from localllm.registry.database import Database
from localllm.registry.store import Registry

_MEND = "move it away; a new one is made"
MAX_VERDICT = 64
TIE, BOTH_BAD = "tie", "both-bad"  # of two answers side by side


@dataclass(frozen=True)
class Verdict:
    """What one source said of a decision: "good", "bad", or the member that is better; of two
    answers side by side the better one, TIE or BOTH_BAD."""

    source: str
    verdict: str
    made_at: float


@dataclass(frozen=True)
class Decided:
    """One decision. `cost` is in the router's unit, None where it is not known. `data` has what
    else there is: the trail of steps, what the guard found (kinds and counts), who failed."""

    id: int
    router: str
    version: int
    made_at: float
    member: str
    chosen: str
    probability: float | None
    threshold: float | None
    cost: float | None
    prompt: str | None
    data: Mapping[str, Any] = field(default_factory=dict)
    votes: tuple[Verdict, ...] = ()

    @property
    def compared(self) -> tuple[str, ...]:
        """The two members of a comparison in the order in which they were shown; () otherwise.
        `data["answers"]` has what each said, `member` is whose was preferred."""
        found = self.data.get("compared", ())
        return tuple(str(name) for name in found) if isinstance(found, list) else ()


class Decisions:
    """The decisions of one home. Opening touches nothing; reading never writes."""

    def __init__(self, registry: Registry) -> None:
        path = registry.home / "chats.db"
        # an answer waits for its decision to be kept: not for the disk as well
        self.database = Database(path, schema.CHATS, private=True, mend=_MEND, flushed=False)

    # --- reading ------------------------------------------------------------------------

    def find(self, number: int) -> Decided:
        """Raises NotFound."""
        with self.database.reading() as connection:
            found = _decided(connection, "id = ?", (number,))
        if not found:
            raise NotFound(f"there is no decision {number}", "localllm route report NAME")
        return found[0]

    def of(
        self, router: str, *, since: float = 0.0, voted: bool = False, limit: int = -1
    ) -> tuple[Decided, ...]:
        """Those of `router` from `since` on (seconds since the epoch), the latest first; with
        `voted` only those that somebody judged."""
        where = "router = ? AND made_at >= ?"
        if voted:
            where += " AND id IN (SELECT decision_id FROM vote)"
        with self.database.reading() as connection:
            return _decided(connection, where, (router, since), limit)

    def began(self, router: str, conversation: str, limit: int = 10_000) -> str | None:
        """The member whose answer began this conversation (`data["conversation"]`, a digest), of
        the latest `limit` decisions; None where none did."""
        with self.database.reading() as connection:
            row = connection.execute(
                "SELECT member FROM (SELECT id, member, data FROM decision WHERE router = ?"
                " ORDER BY made_at DESC, id DESC LIMIT ?)"
                " WHERE instr(data, ?) AND member != '' ORDER BY id DESC LIMIT 1",
                (router, limit, json.dumps({"conversation": conversation})[1:-1]),
            ).fetchone()
        return None if row is None else str(row[0])

    def spent(self, router: str, since: float) -> float:
        """What its decisions cost since then, as far as it is known."""
        with self.database.reading() as connection:
            row = connection.execute(
                "SELECT coalesce(sum(cost), 0) FROM decision WHERE router = ? AND made_at >= ?",
                (router, since),
            ).fetchone()
        return float(row[0])

    # --- writing ------------------------------------------------------------------------

    def record(
        self,
        router: str,
        version: int,
        *,
        member: str,
        chosen: str,
        probability: float | None = None,
        threshold: float | None = None,
        cost: float | None = None,
        prompt: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> int:
        """Keep a decision; its number."""
        with self.database.writing() as connection:
            cursor = connection.execute(
                "INSERT INTO decision (router, version, made_at, member, chosen, probability,"
                " threshold, cost, prompt, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    router, version, time.time(), member, chosen, probability, threshold, cost,
                    None if prompt is None else _storable(prompt), json.dumps(dict(data or {})),
                ),
            )  # fmt: skip
            return int(cursor.lastrowid or 0)

    def finish(
        self, number: int, *, member: str, cost: float | None, data: Mapping[str, Any]
    ) -> None:
        """Say how a decision ended: who answered, what it cost, and what is added to `data`."""
        with self.database.writing() as connection:
            row = connection.execute("SELECT data FROM decision WHERE id = ?", (number,)).fetchone()
            if row is not None:  # else removed meanwhile
                whole = {**json.loads(row["data"]), **data}
                connection.execute(
                    "UPDATE decision SET member = ?, cost = coalesce(?, cost), data = ?"
                    " WHERE id = ?",
                    (member, cost, json.dumps(whole), number),
                )

    def settle(self, number: int, *, member: str, data: Mapping[str, Any]) -> None:
        """Say whose answer was preferred of a comparison ("" where none was). It counts as made
        now: what a conversation keeps of it is written after that."""
        with self.database.writing() as connection:
            row = connection.execute("SELECT data FROM decision WHERE id = ?", (number,)).fetchone()
            if row is not None:
                whole = json.dumps({**json.loads(row["data"]), **data})
                connection.execute(
                    "UPDATE decision SET made_at = ?, member = ?, chosen = ?, data = ?"
                    " WHERE id = ?",
                    (time.time(), member, member, whole, number),
                )

    def vote(self, number: int, verdict: str, source: str) -> None:
        """Let `source` say what it thinks of decision `number`, in place of what it said before:
        one source has one vote on each. Raises NotFound, UsageProblem."""
        if not verdict or len(verdict) > MAX_VERDICT or len(source) > 200:
            raise UsageProblem("a verdict is good, bad, or the name of a member")
        with self.database.writing() as connection:
            known = connection.execute("SELECT 1 FROM decision WHERE id = ?", (number,)).fetchone()
            if known is None:
                raise NotFound(f"there is no decision {number}", "localllm route report NAME")
            connection.execute(
                "INSERT OR REPLACE INTO vote VALUES (?, ?, ?, ?)",
                (number, time.time(), _storable(source), _storable(verdict)),
            )

    def judge(self, number: int, verdict: str, source: str) -> Decided:
        """The same from outside, where a member's name is checked against those that were there
        to choose from. Raises UsageProblem for another word."""
        found = self.find(number)
        known = {"good", "bad", found.member, found.chosen, *found.data.get("members", ())} - {""}
        if found.compared:
            known = {*found.compared, TIE, BOTH_BAD}
        if verdict not in known:
            raise UsageProblem(
                f"{verdict[:40]!r} is no verdict on decision {number}",
                f"one of {', '.join(sorted(known))}",
            )
        self.vote(number, verdict, source)
        return self.find(number)

    def forget(self, router: str) -> int:
        """Remove all decisions of `router`, prompts and votes with them, and what it asked people;
        how many decisions."""
        with self.database.writing() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("DELETE FROM inbox WHERE router = ?", (router,))
            return connection.execute("DELETE FROM decision WHERE router = ?", (router,)).rowcount


def _decided(
    connection: sqlite3.Connection, where: str, values: tuple[Any, ...], limit: int = -1
) -> tuple[Decided, ...]:
    found = connection.execute(
        f"SELECT * FROM decision WHERE {where} ORDER BY made_at DESC, id DESC LIMIT ?",
        (*values, limit),
    ).fetchall()
    votes: dict[int, list[Verdict]] = {}
    for row in connection.execute(
        f"SELECT * FROM vote WHERE decision_id IN (SELECT id FROM decision WHERE {where})"
        " ORDER BY made_at",
        values,
    ):
        votes.setdefault(row["decision_id"], []).append(
            Verdict(row["source"], row["verdict"], row["made_at"])
        )
    return tuple(
        Decided(
            row["id"], row["router"], row["version"], row["made_at"], row["member"],
            row["chosen"], row["probability"], row["threshold"], row["cost"], row["prompt"],
            json.loads(row["data"]), tuple(votes.get(row["id"], ())),
        )
        for row in found
    )  # fmt: skip


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
