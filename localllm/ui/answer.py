"""An answer on its way to whoever reads it: a terminal, a pipe, or nobody (JSON).

view = answer_view(sink, thinking="show", markdown=True)
view.status("reading 1,200 tokens")
view.thinking("Hm.")
view.answer("Yes.")
view.end()
"""

from __future__ import annotations

import shutil
import time
from typing import Literal, Protocol, TextIO

from localllm.ui.live import LiveLines, Size
from localllm.ui.markdown import Renderer, blocks, steadied, visible
from localllm.ui.sink import Sink
from localllm.ui.terminal import can_redraw

ThinkingShown = Literal["show", "hide"]

_LEAST_S = 0.05  # between two drawings
_SHARE = 10  # drawing takes at most one part in so many of the time
_HOLD = ("table_open",)  # blocks whose first lines change with their last


class AnswerView(Protocol):
    """Where an answer goes while it is made. `end`, however it ended; then the next."""

    def status(self, text: str) -> None:
        """What is being done before the first word; taken away when that comes."""

    def thinking(self, text: str) -> None: ...

    def answer(self, text: str) -> None: ...

    def end(self) -> None: ...


def answer_view(
    sink: Sink, *, thinking: ThinkingShown, markdown: bool, size: Size | None = None
) -> AnswerView:
    """Markdown where stdout is a terminal that can draw it, the text as it is elsewhere; what is
    thought never goes to stdout then."""
    if sink.as_json:
        return NoView()
    if sink.is_terminal and can_redraw(sink.stdout):
        return TerminalView(sink.stdout, sink.no_color, thinking, markdown, size or _terminal_size)
    return PlainView(sink, thinking)


def _terminal_size() -> tuple[int, int]:
    found = shutil.get_terminal_size()
    return found.columns, found.lines


class NoView:
    """Shows nothing."""

    def status(self, text: str) -> None:
        return

    def thinking(self, text: str) -> None:
        return

    def answer(self, text: str) -> None:
        return

    def end(self) -> None:
        return


class PlainView:
    """The answer to stdout as it is; thinking, if shown, to stderr."""

    def __init__(self, sink: Sink, thinking: ThinkingShown) -> None:
        self._sink, self._thinking = sink, thinking
        self._last, self._thought = "", ""

    def status(self, text: str) -> None:
        return

    def thinking(self, text: str) -> None:
        if self._thinking == "show":
            self._sink.aside(text)
            self._thought = text

    def answer(self, text: str) -> None:
        self._close_thinking()
        self._sink.write(visible(text) if self._sink.is_terminal else text)
        self._last = text or self._last

    def end(self) -> None:
        self._close_thinking()
        if self._last and not self._last.endswith("\n"):
            self._sink.write("\n")
        self._last = ""

    def _close_thinking(self) -> None:
        if self._thought:
            self._sink.aside("\n\n")
            self._thought = ""


class TerminalView:
    """Draws thinking dimmed and the answer as Markdown, block by block, as they come."""

    def __init__(
        self,
        out: TextIO,
        no_color: bool,
        thinking: ThinkingShown,
        markdown: bool,
        size: Size,
    ) -> None:
        self._size, self._thinking, self._markdown = size, thinking, markdown
        self._out, self._live, self._draw = out, LiveLines(out, size), Renderer(out, no_color)
        self._begin()

    def _begin(self) -> None:
        self._kind: Literal["", "status", "thinking", "answer"] = ""
        self._pending = ""  # of the block that is not finished
        self._gone = 0  # lines of it that scrolled away
        self._columns = 0
        self._anything = False  # stands above, so that a blank line comes between
        self._next_at = 0.0
        self._thinking_since = 0.0
        self._plain_tail = ""  # the last of an answer that is not drawn

    # --- what comes ----------------------------------------------------------------------

    def status(self, text: str) -> None:
        if self._kind in ("", "status"):
            self._kind = "status"
            self._live.update(self._fitted(self._draw.dim(text, self._width)))

    def thinking(self, text: str) -> None:
        if self._kind != "thinking":
            self._switch("thinking")
            self._thinking_since = time.monotonic()
        if self._thinking == "hide":
            self._live.update(self._draw.dim(self._thought("thinking ..."), self._width))
        else:
            self._feed(text)

    def answer(self, text: str) -> None:
        if self._kind != "answer":
            if not text.strip():
                return
            self._switch("answer")
        self._feed(text)

    def end(self) -> None:
        self._finish_part()
        self._begin()

    # --- parts ---------------------------------------------------------------------------

    def _switch(self, kind: Literal["thinking", "answer"]) -> None:
        self._finish_part()
        self._kind = kind

    def _finish_part(self) -> None:
        if self._kind == "status":
            self._live.update([])
        elif self._kind == "thinking" and self._thinking == "hide":
            self._live.update(self._draw.dim(self._thought("thought for"), self._width))
            self._live.settle(2)
            self._anything = True
        elif self._pending.strip():
            self._settle_blocks()
            self._show(self._pending, final=True)
        elif self._plain_tail and not self._plain_tail.endswith("\n"):
            self._out.write("\n")
            self._out.flush()
        self._pending, self._gone = "", 0

    def _thought(self, label: str) -> str:
        return f"{label} {time.monotonic() - self._thinking_since:.0f} s"

    def _feed(self, text: str) -> None:
        text = visible(text)
        if self._kind == "answer" and not self._markdown:
            self._write_plain(text)
            return
        self._pending += text
        began = time.monotonic()
        if began < self._next_at:
            return
        self._advance()
        took = time.monotonic() - began
        self._next_at = began + max(_LEAST_S, _SHARE * took)

    def _write_plain(self, text: str) -> None:
        if self._anything and not self._plain_tail:
            self._out.write("\n")
        self._plain_tail = text or self._plain_tail
        self._out.write(text)
        self._out.flush()

    def _advance(self) -> None:
        """Let finished blocks stand, and show the last as far as it is."""
        kind = self._settle_blocks()
        if not self._pending.strip():
            return
        source = steadied(self._pending, kind) if self._kind == "answer" else self._pending
        self._show(source, held=kind in _HOLD)

    def _settle_blocks(self) -> str:
        """Draw every block but the last for good; the type of the last."""
        if self._kind == "answer":
            found = blocks(self._pending)
        else:
            found = [(self._pending.rfind("\n\n") + 1, "paragraph_open")]
        at = 0
        for start, _ in found:
            if start > at and self._pending[at:start].strip():
                self._show(self._pending[at:start], final=True)
                self._gone = 0
                at = start
        self._pending = self._pending[at:]
        return found[-1][1] if found else ""

    # --- drawing -------------------------------------------------------------------------

    @property
    def _width(self) -> int:
        return max(4, self._size()[0] - 1)

    def _fitted(self, lines: list[str]) -> list[str]:
        return lines[-self._live.most :]

    def _show(self, source: str, *, final: bool = False, held: bool = False) -> None:
        # A block of which lines are gone keeps its width: at another they would end elsewhere
        columns = self._columns if self._gone else self._width
        self._columns = columns
        fresh = self._rendered(source, columns)[self._gone :]
        if held and not final:  # its first lines may change yet: show its end
            fresh = self._fitted(fresh)
        if not fresh and not self._gone:
            return
        self._live.update(fresh)
        if final:
            self._live.settle(len(fresh) + 1)
            self._anything = True
        elif (beyond := len(fresh) - self._live.most // -(-columns // self._width)) > 0:
            self._live.settle(beyond)
            self._gone += beyond

    def _rendered(self, source: str, columns: int) -> list[str]:
        """Lines of a part of the answer, with a blank one before it where something stands."""
        draw = self._draw.markdown if self._kind == "answer" else self._draw.dim
        lines = draw(source, columns)
        return ["", *lines] if self._anything and lines else lines
