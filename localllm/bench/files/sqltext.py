"""Rows out of SQL's INSERT statements. The text is parsed and never executed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from localllm.errors import DamagedFile

# The whole of the SQL that llama-bench and sqlite3's .dump write; a quote in a text is doubled.
_TOKEN = re.compile(
    r"""\s+ | --[^\n]*
      | (?P<text>'[^']*(?:''[^']*)*')
      | (?P<name>"[^"]+" | `[^`]+` | [A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
      | (?P<mark>[^'"`])""",
    re.VERBOSE,
)
Token = tuple[str, str]  # kind and text
_END = ("end", "")


def inserted(text: str, table: str, origin: str) -> tuple[list[Mapping[str, Any]], bool]:
    """What the statements insert into `table`, by column name, and whether the text was whole.

    Texts and numbers come as text, NULL as None. Other statements and tables are passed over.
    Raises DamagedFile.
    """
    columns: list[str] = []
    rows: list[Mapping[str, Any]] = []
    statement: list[Token] = []
    at = 0
    while at < len(text):
        if (match := _TOKEN.match(text, at)) is None:
            break  # a quote that is never closed: cut off within a text
        at = match.end()
        if match.lastgroup is None:
            continue
        if match[0] != ";":
            statement.append((match.lastgroup, match[match.lastgroup]))
            continue
        if found := _Statement(statement, table, columns, origin).read():
            rows.extend(found)
        statement = []
    return rows, not statement and at >= len(text)


class _Statement:
    """One statement's tokens; `columns` are the table's, filled when it is created."""

    def __init__(
        self, tokens: Sequence[Token], table: str, columns: list[str], origin: str
    ) -> None:
        self._tokens, self._at = tokens, 0
        self._table, self._columns, self._origin = table, columns, origin

    def read(self) -> list[Mapping[str, Any]]:
        words = [_bare(text).upper() for _, text in self._tokens[:8]]
        if words[:2] == ["CREATE", "TABLE"] and self._table.upper() in words[2:6]:
            self._columns[:] = self._created()
        if words[:2] != ["INSERT", "INTO"] or words[2:3] != [self._table.upper()]:
            return []
        self._at = 3
        columns = self._columns
        if self._peek() == "(":
            columns = [_bare(text) for _, text in self._list()]
        if self._next()[1].upper() != "VALUES":
            raise self._wrong("VALUES is missing")
        rows = []
        while self._peek() == "(":
            rows.append(self._row(columns))
            if self._peek() == ",":
                self._next()
        if not rows or self._peek():
            raise self._wrong("its values cannot be read")
        return rows

    def _row(self, columns: Sequence[str]) -> Mapping[str, Any]:
        values = [self._value(token) for token in self._list()]
        if len(values) != len(columns):
            raise self._wrong(f"{len(values)} values for {len(columns)} columns")
        return dict(zip(columns, values, strict=True))

    def _value(self, token: Token) -> str | None:
        kind, text = token
        if kind == "text":
            return text[1:-1].replace("''", "'")
        if kind == "number":
            return text
        if text.upper() == "NULL":
            return None
        raise self._wrong(f"{text!r} is neither a text nor a number")

    def _list(self) -> list[Token]:
        """The single tokens between a pair of brackets, without the commas."""
        self._next()
        found = [self._next()]
        while (mark := self._next()[1]) == ",":
            found.append(self._next())
        if mark != ")":
            raise self._wrong("its values cannot be read")
        return found

    def _created(self) -> list[str]:
        """The first word after the opening bracket and after each comma."""
        names = []
        for before, token in zip(self._tokens, self._tokens[1:], strict=False):
            if before[1] in ("(", ",") and token[0] == "name":
                names.append(_bare(token[1]))
        return names

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self) -> Token:
        token = self._tokens[self._at] if self._at < len(self._tokens) else _END
        self._at += 1
        return token

    def _wrong(self, reason: str) -> DamagedFile:
        return DamagedFile(f"{self._origin}: an INSERT INTO {self._table} is not whole: {reason}")


def _bare(name: str) -> str:
    return name.strip('"`')
