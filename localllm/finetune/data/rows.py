"""What data comes down to: conversations, texts, preference pairs, and rows that are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localllm.generation import Message


@dataclass(frozen=True, slots=True)
class RowAt:
    """Where a row lies. `number` counts from 1: the line it begins in where `unit` is "line",
    the record where lines mean nothing ("row", "chat")."""

    file: str
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it was read: an object with columns."""

    value: Mapping[str, Any]
    at: RowAt


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used. `kind` groups them ("not UTF-8"), `reason` says more."""

    kind: str
    reason: str
    at: RowAt


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation. `counts[i]` False is an answer that is not to be learned (its weight is 0,
    or it was cut off)."""

    messages: tuple[Message, ...]
    counts: tuple[bool, ...]
    tools: tuple[Mapping[str, Any], ...]
    at: RowAt


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of a document. A long one comes in several, in order: `first` and `last` say which
    piece begins and ends it."""

    text: str
    at: RowAt
    first: bool = True
    last: bool = True


@dataclass(frozen=True, slots=True)
class Preference:
    """Two ways on from the same prompt. Each ends with an answer."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    at: RowAt


Record = Chat | Text | Preference


class RowProblem(Exception):
    """Why a row cannot be used; becomes a BadRow where its place is known."""

    def __init__(self, kind: str, reason: str | None = None) -> None:
        super().__init__(reason or kind)
        self.kind = kind
        self.reason = reason or kind
