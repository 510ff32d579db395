"""An answer's text as it streams, told apart into text and tool calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from localllm.toolcalls.calls import (
    CallArguments,
    CallEnd,
    CallStart,
    Found,
    Part,
    TextPart,
    Tool,
    ToolCall,
)
from localllm.toolcalls.reading import Attempt, NoCall, Reading, Source

if TYPE_CHECKING:
    from localllm.toolcalls.formats import Syntax, ToolFormat

_SPACE_END = re.compile(r"\s*\Z")


class ToolParser:
    """Feed it pieces however they are cut: the parts are the same.

    A call is handed on when it is complete and valid, and names one of the tools; whatever else
    looks like one is text, as it was written. Marks of the format, and white space between and
    around calls, belong to neither.
    """

    def __init__(
        self, format: ToolFormat, tools: Sequence[Tool], new_id: Callable[[Found], str]
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._new_id = new_id
        self._source = Source()
        self._source.text = format.prefix
        self._at = 0  # what comes before is done with
        self._prefix = len(format.prefix)
        self._marks: list[tuple[str, Syntax]] = [
            (opener, syntax) for syntax in format.syntaxes for opener in syntax.openers
        ]
        self._marks.sort(key=lambda mark: -len(mark[0]))
        self._openers = re.compile("|".join(re.escape(m) for m, s in self._marks if not s.bare))
        self._reading: tuple[int, Attempt, Reading[list[Found]]] | None = None
        self._space = ""  # white space that may turn out to stand before a call
        self._thinking = False
        self._fresh = True  # nothing but white space and calls so far
        self.n_calls = 0

    def feed(self, text: str) -> list[Part]:
        """What `text` brings; some of it may be held back until more has come."""
        self._source.text += text
        return self._run()

    def finish(self) -> list[Part]:
        """What was held back. No more may be fed."""
        self._source.final = True
        parts = self._run()
        if self._space and not self.n_calls:
            parts.append(TextPart(self._space, self._thinking))
        self._space = ""
        return _joined(parts)

    def _run(self) -> list[Part]:
        parts: list[Part] = []
        while True:
            if self._reading is not None:
                if not self._go_on(parts):
                    break
            elif not self._look(parts):
                break
        if self._reading is None and self._at > 65536:
            self._source.text, self._at = self._source.text[self._at :], 0
        return _joined(parts)

    def _go_on(self, parts: list[Part]) -> bool:
        """Read on in what may be a call. False where more text is needed."""
        assert self._reading is not None
        start, attempt, reading = self._reading
        try:
            next(reading)
            return False
        except StopIteration as done:
            found: list[Found] = done.value
            if all(one.name in self._tools for one in found):
                self._reading = None
                self._at = attempt.at
                self._take(found, attempt, parts)
                return True
        except NoCall:
            pass
        self._reading = None
        self._at = start + 1
        if start >= self._prefix:
            self._say(self._source.text[start], parts)
        return True

    def _take(self, found: list[Found], attempt: Attempt, parts: list[Part]) -> None:
        self._space = "" if found or attempt.thinking is not None else self._space
        if attempt.thinking is not None:
            self._thinking = attempt.thinking
        for one in found:
            self.n_calls += 1
            parts += [CallStart(self._new_id(one), one.name), CallArguments(one.arguments),
                      CallEnd()]  # fmt: skip

    def _look(self, parts: list[Part]) -> bool:
        """Go to the next mark. False where all that can be said has been said."""
        text = self._source.text
        if self._fresh and (began := self._bare()) is not None:
            return began
        match = self._openers.search(text, self._at) if self._openers.pattern else None
        if match is not None:
            at, opener = match.start(), match[0]
            if not self._source.final and self._longer(text[at:], opener):
                self._pass(at, parts)
                return False  # "<tool_call>" may become "<tool_calls>"
            self._pass(at, parts)
            syntax = next(s for mark, s in self._marks if mark == opener and not s.bare)
            self._begin(at, opener, syntax)
            return True
        self._pass(len(text) - self._held(text), parts)
        return False

    def _bare(self) -> bool | None:
        """Whether a call without a mark begins here; None where none can."""
        text = self._source.text
        bare = [mark for mark in self._marks if mark[1].bare]
        match = re.compile(r"\s*").match(text, self._at)
        at = match.end() if match else self._at
        if not bare or at >= len(text):
            return None if not bare or self._source.final else False
        for opener, syntax in bare:
            if opener and text.startswith(opener, at):
                parts: list[Part] = []
                self._pass(at, parts)
                assert not parts  # white space is held back
                self._begin(at, opener, syntax)
                self._fresh = False
                return True
        return None

    def _begin(self, at: int, opener: str, syntax: Syntax) -> None:
        attempt = Attempt(self._source, at + len(opener))
        self._reading = (at, attempt, syntax.read(attempt, opener, self._tools))

    def _longer(self, text: str, opener: str) -> bool:
        return any(m.startswith(text) and len(m) > len(text) >= len(opener)
                   for m, _ in self._marks)  # fmt: skip

    def _held(self, text: str) -> int:
        """How much of the end may be the beginning of a mark."""
        if self._source.final:
            return 0
        longest = max((len(mark) for mark, _ in self._marks), default=1) - 1
        for n in range(min(longest, len(text) - self._at), 0, -1):
            if any(mark.startswith(text[-n:]) for mark, s in self._marks if not s.bare):
                return n
        return 0

    def _pass(self, end: int, parts: list[Part]) -> None:
        """Everything up to `end` is text."""
        start, self._at = max(self._at, self._prefix), max(self._at, end)
        if end > start:
            self._say(self._source.text[start:end], parts)

    def _say(self, text: str, parts: list[Part]) -> None:
        """Text; white space at its end waits for what follows it."""
        match = _SPACE_END.search(text)
        cut = match.start() if match else len(text)
        if cut == 0:
            self._space += text
            return
        self._fresh = False
        parts.append(TextPart(self._space + text[:cut], self._thinking))
        self._space = text[cut:]


def _joined(parts: list[Part]) -> list[Part]:
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if (
            isinstance(part, TextPart)
            and isinstance(last, TextPart)
            and part.thinking == last.thinking
        ):
            found[-1] = TextPart(last.text + part.text, part.thinking)
        else:
            found.append(part)
    return found


def read_calls(parser: ToolParser, text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """A whole answer at once: its text and its calls."""
    said: list[str] = []
    calls: list[ToolCall] = []
    start: CallStart | None = None
    for part in [*parser.feed(text), *parser.finish()]:
        match part:
            case TextPart():
                said.append("" if part.thinking else part.text)
            case CallStart():
                start = part
            case CallArguments():
                assert start is not None  # it comes first
                calls.append(ToolCall(start.id, start.name, part.text))
    return "".join(said), tuple(calls)
