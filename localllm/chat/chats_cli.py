"""chats: the conversations that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from localllm.chat.conversation import Entry
from localllm.chat.kept import entry
from localllm.chat.transcript import as_json, as_markdown, write_file
from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.registry.chats import Chats, KeptChat
from localllm.ui import Count, Heading, Moment, Note, Sink, Table, Text, View

Id = Annotated[int, typer.Argument(metavar="ID", help="Its number in `localllm chats`.")]


@dataclass(frozen=True)
class ShownChat:
    """A conversation with all its messages, as plain data."""

    id: int
    title: str
    model: str
    started_at: float
    changed_at: float
    messages: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Exported:
    id: int
    path: Path


@dataclass(frozen=True)
class Removed:
    ids: tuple[int, ...]


def list_command(
    find: Annotated[
        str | None, typer.Option("--find", help="Only those in which this text was said.")
    ] = None,
    *,
    sink: Sink,
) -> None:
    """List the conversations that were kept."""
    chats = Chats.of(Registry.open())
    found = chats.list() if find is None else chats.saying(find)
    sink.show(found, lambda shown: _table(shown, find))


def show_command(chat_id: Id, *, sink: Sink) -> None:
    """Show what was said in a conversation."""
    chat, entries = _chat(chat_id)
    sink.show(_shown(chat, entries), lambda shown: _transcript(chat, entries))


def export_command(
    chat_id: Id,
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A new file: .json to keep, else Markdown.")
    ],
    *,
    sink: Sink,
) -> None:
    """Write a conversation to a file."""
    chat, entries = _chat(chat_id)
    write_file(path, entries, _about(chat))
    sink.note(f"written to {path}")
    sink.show(Exported(chat.id, path.absolute()))


def rm_command(
    chat_ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID...", help="Their numbers.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    *,
    sink: Sink,
) -> None:
    """Remove conversations for good."""
    chats = Chats.of(Registry.open())
    if every == bool(chat_ids):
        raise UsageProblem("name conversations to remove, or --all", "localllm chats")
    numbers = [chat.id for chat in chats.list()] if every else list(dict.fromkeys(chat_ids or ()))
    for number in numbers:  # none goes where one is not there
        chats.find(number)
    for number in numbers:
        chats.remove(number)
    sink.note(f"removed: {', '.join(map(str, numbers)) or 'none'}")
    sink.show(Removed(tuple(numbers)))


def _chat(number: int) -> tuple[KeptChat, list[Entry]]:
    chats = Chats.of(Registry.open())
    return chats.find(number), [entry(message) for message in chats.messages(number)]


def _about(chat: KeptChat) -> dict[str, Any]:
    return {
        "id": chat.id, "title": chat.title, "model": chat.model,
        "started_at": chat.started_at, "changed_at": chat.changed_at,
    }  # fmt: skip


def _shown(chat: KeptChat, entries: Sequence[Entry]) -> ShownChat:
    return ShownChat(**_about(chat), messages=as_json(entries)["messages"])


def _table(chats: Sequence[KeptChat], find: str | None) -> View:
    rows = [
        (chat.id, Moment(chat.changed_at), Count(chat.n_messages), chat.model, chat.title)
        for chat in chats
    ]
    table = Table(("id", "last", "messages", "model", "begins"), rows)
    if not rows and find is not None:
        return Note(f"in no conversation that is kept was said: {find}")
    if not rows:
        return Note("no conversation is kept: localllm chat MODEL")
    return [table, Note("go on: localllm chat MODEL --chat ID")]


def _transcript(chat: KeptChat, entries: Sequence[Entry]) -> View:
    return [Heading(f"{chat.title} ({chat.model})"), Text(as_markdown(entries).rstrip())]
