"""What may follow what was typed: commands, models, files, settings, conversations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.chat.commands import find
from localllm.chat.controls import SHOWN
from localllm.chat.settings import NAMES
from localllm.errors import LocalLLMError
from localllm.library.answering import all_far
from localllm.ui import Choice

if TYPE_CHECKING:
    from localllm.chat.repl import Repl

_MOST = 100


class Completer:
    """Completes lines that begin with a slash. Never fails: somebody is typing."""

    def __init__(self, repl: Repl) -> None:
        self._repl = repl

    def __call__(self, text: str) -> Iterable[Choice]:
        if not text.startswith("/") or "\n" in text:
            return ()
        name, space, rest = text.partition(" ")
        try:
            if not space:
                return list(self._commands(text))
            kind = find(name, self._repl.commands).completes
            return list(self._arguments(kind, rest))[:_MOST]
        except (LocalLLMError, OSError):
            return ()

    def _commands(self, typed: str) -> Iterator[Choice]:
        for command in self._repl.commands:
            if command.name.startswith(typed):
                yield Choice(command.name, len(typed), command.help)
        for command in self._repl.commands:
            for other in command.others:
                if other.startswith(typed) and other != "/?":
                    yield Choice(other, len(typed), command.help)

    def _arguments(self, kind: str, rest: str) -> Iterator[Choice]:
        if kind == "file":
            yield from _files(rest)
        elif kind == "chat":
            for chat in self._repl.chats.list():
                if str(chat.id).startswith(rest):
                    yield Choice(str(chat.id), len(rest), chat.title)
            yield from _files(rest) if rest else ()
        else:
            typed = rest.casefold()
            for word in self._words(kind):
                if typed in word.casefold():
                    yield Choice(word, len(rest))

    def _words(self, kind: str) -> Iterable[str]:
        if kind == "model":
            far = [one.name for one in all_far(self._repl.registry)]
            return [*self._repl.registry.names(), *far]
        if kind == "setting":
            return NAMES
        if kind == "show":
            return SHOWN
        return [c.name for c in self._repl.commands] if kind == "command" else ()


def _files(typed: str) -> Iterator[Choice]:
    """Names in the folder that the text leads to, folders with a slash."""
    quote = typed[:1] if typed[:1] in "'\"" and typed[:1] else ""
    typed = typed[len(quote) :]
    head, slash, name = typed.rpartition("/")
    folder = Path(f"{head}{slash}" or ".").expanduser()
    for path in sorted(folder.iterdir())[:2000]:
        hidden = path.name.startswith(".") and not name.startswith(".")
        if path.name.startswith(name) and not hidden:
            yield Choice(path.name + ("/" if path.is_dir() else ""), len(name))
