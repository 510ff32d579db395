"""The slash commands of a conversation: their table, and the one that is meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from localllm.errors import UsageProblem

if TYPE_CHECKING:
    from localllm.chat.repl import Repl

Completes = Literal["", "file", "model", "setting", "chat", "show", "command"]


@dataclass(frozen=True)
class Command:
    """`run` gets the REPL and what stands after the name; True ends the conversation."""

    name: str
    args: str
    help: str
    run: Callable[[Repl, str], bool | None]
    completes: Completes = ""
    others: tuple[str, ...] = ()  # names that do the same


def is_command(text: str) -> bool:
    """Whether a message is one: it begins with a slash that begins no path. "//" says a slash."""
    word = text.split(maxsplit=1)[0] if text.split() else ""
    return (word.startswith("/") and "/" not in word[1:] and len(word) > 1) or word == "/?"


def find(name: str, commands: tuple[Command, ...]) -> Command:
    """The command of this name, or the only one that begins so. Raises UsageProblem."""
    by_name = {n: c for c in commands for n in (c.name, *c.others)}
    if name in by_name:
        return by_name[name]
    begun = {c.name: c for n, c in by_name.items() if n.startswith(name)}
    if len(begun) == 1:
        return next(iter(begun.values()))
    near = sorted(begun) or difflib.get_close_matches(name, by_name, n=1, cutoff=0.5)
    hint = f"; near: {', '.join(near)}" if near else ""
    raise UsageProblem(f"there is no command {name}{hint}", "/help")


def run(repl: Repl, text: str) -> bool:
    """Do what the line says; whether the conversation ends. Raises what commands raise."""
    name, _, rest = text.strip().partition(" ")
    return bool(find(name.lower(), repl.commands).run(repl, rest.strip()))
