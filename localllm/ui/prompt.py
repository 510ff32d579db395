"""Asking a person for a line: history, completion and several lines on a terminal, plain
elsewhere. prompt_toolkit lives only here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from localllm.ui.sink import Sink
from localllm.ui.terminal import can_redraw

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

_MARK, _MORE = ">>> ", "... "
_QUOTES = '"""'


@dataclass(frozen=True)
class Choice:
    """A completion: `text` takes the place of the last `replaces` characters before the cursor."""

    text: str
    replaces: int
    note: str = ""


class History(Protocol):
    """What was typed before, oldest first, and where the next goes."""

    def load(self) -> list[str]: ...

    def append(self, text: str) -> None: ...


Complete = Callable[[str], Iterable[Choice]]


class Prompt(Protocol):
    """Reads what a person says."""

    def read(self, default: str = "") -> str | None:
        """A message, maybe of several lines; None at the end of the input (Ctrl-D). `default`
        stands there to be edited. Raises KeyboardInterrupt for Ctrl-C."""

    def confirm(self, question: str) -> str:
        """A short answer, stripped and in lower case; "" at the end of the input."""


def prompt_for(sink: Sink, history: History, complete: Complete, hint: str) -> Prompt:
    """The best prompt that stdin and stdout allow. `hint` stands dimmed in an empty line."""
    if sys.stdin.isatty() and sink.is_terminal and can_redraw(sink.stdout):
        return TerminalPrompt(sink, history, complete, hint)
    return PlainPrompt(sink)


def unquoted(text: str) -> str:
    """A message without the triple quotes around it that let it go over several lines."""
    stripped = text.strip()
    if stripped.startswith(_QUOTES):
        stripped = stripped[len(_QUOTES) :]
        return stripped.removesuffix(_QUOTES).strip("\n")
    return text


def is_open(text: str) -> bool:
    """Whether triple quotes were opened and not closed."""
    return text.lstrip().startswith(_QUOTES) and text.count(_QUOTES) < 2


class PlainPrompt:
    """Line by line, where nothing can be drawn: TERM=dumb, an old console, stdout in a file."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        try:
            import readline  # noqa: F401 - importing it switches line editing on
        except ImportError:
            return

    def read(self, default: str = "") -> str | None:
        if default:
            self._sink.note(f"it was: {default}")
        text = self._line(_MARK)
        while text is not None and is_open(text):
            more = self._line(_MORE)
            if more is None:
                break
            text += f"\n{more}"
        return None if text is None else unquoted(text)

    def confirm(self, question: str) -> str:
        return (self._line(question) or "").strip().lower()

    def _line(self, mark: str) -> str | None:
        try:
            if self._sink.is_terminal:
                return input(mark)
            self._sink.aside(mark)
            line = sys.stdin.readline()
        except EOFError:
            line = ""
        except UnicodeDecodeError:
            self._sink.note("that was no UTF-8 text")
            return ""
        if not line:
            self._sink.note("")
            return None
        return line.rstrip("\r\n")


class TerminalPrompt:
    """A line editor: arrows, history with search (Ctrl-R), completion, Alt-Enter for a new line,
    pasted lines as they are, Ctrl-X Ctrl-E for an editor."""

    def __init__(self, sink: Sink, history: History, complete: Complete, hint: str) -> None:
        self._session = _session(history, complete, hint, sink.no_color)

    def read(self, default: str = "") -> str | None:
        try:
            return unquoted(self._session.prompt(default=default))
        except EOFError:
            return None

    def confirm(self, question: str) -> str:
        from prompt_toolkit import prompt

        try:
            return str(prompt(question)).strip().lower()
        except EOFError:
            return ""


def _session(history: History, complete: Complete, hint: str, no_color: bool) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.output import ColorDepth
    from prompt_toolkit.shortcuts import CompleteStyle

    session: PromptSession[str] = PromptSession(
        _MARK,
        multiline=True,
        prompt_continuation=lambda width, number, wrapped: "" if wrapped else _MORE,
        history=_history(history),
        completer=_completer(complete),
        complete_style=CompleteStyle.COLUMN,
        complete_while_typing=True,
        key_bindings=_keys(),
        enable_open_in_editor=True,
        enable_suspend=True,  # Ctrl-Z, where there is a shell to come back from
        enable_history_search=False,
        search_ignore_case=True,
        placeholder=FormattedText([("class:placeholder", hint)]),
        style=_style(),
        color_depth=ColorDepth.DEPTH_1_BIT if no_color else None,
        reserve_space_for_menu=6,
    )
    # A terminal that does not say where its cursor is needs no warning about it
    session.app.renderer.cpr_not_supported_callback = None
    return session


def _style() -> Any:
    from prompt_toolkit.styles import Style

    return Style.from_dict({"placeholder": "ansibrightblack", "prompt": "bold"})


def _history(store: History) -> Any:
    from prompt_toolkit.history import History as Base

    class Stored(Base):
        def load_history_strings(self) -> Iterable[str]:
            return reversed(store.load())

        def store_string(self, string: str) -> None:
            store.append(string)

    return Stored()


def _completer(complete: Complete) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class Chosen(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterable[Completion]:
            for choice in complete(document.text_before_cursor):
                yield Completion(choice.text, -choice.replaces, display_meta=choice.note)

    return Chosen()


def _keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: Any) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return keys
