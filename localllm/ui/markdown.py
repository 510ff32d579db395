"""Markdown as rich draws it, for text that comes from a language model.

Compared with rich's own: headings stand at the left, code has no frame or padding (it is copied
from the terminal), a line break stays one, links show where they lead, and HTML is text.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_TRAILING = re.compile(r"(?:\x1b\[[0-9;]*m| )+$")
# A last line that may still become anything: a list item, a rule, an underlined heading
_UNDECIDED = re.compile(r"(?:^|\n)[ \t]*(?:[-=*+#>|`~_:]+|[0-9]{1,9}[.)]?)[ \t]*$")
_LEAST_COLUMN = 8  # cells of a table's column, where not every word fits one line
_CONTROL = {c: "\ufffd" for c in [*range(32), *range(127, 160)] if chr(c) not in "\n\t"}


def visible(text: str) -> str:
    """`text` without control characters: a model's answer must not steer the terminal."""
    return text.replace("\r\n", "\n").translate(_CONTROL)


class Renderer:
    """Draws Markdown into lines for one terminal."""

    def __init__(self, out: TextIO, no_color: bool) -> None:
        self._out, self._no_color = out, no_color

    def markdown(self, source: str, columns: int) -> list[str]:
        """A whole text, or a part of one that ends a block, as lines with colour codes."""
        return self._lines(_markdown_class()(source), columns)

    def dim(self, text: str, columns: int) -> list[str]:
        """Plain text, dimmed and wrapped at words."""
        from rich.text import Text

        return self._lines(Text(text, style="dim"), columns)

    def _lines(self, what: RenderableType, columns: int) -> list[str]:
        console = self._console(columns)
        with console.capture() as capture:
            console.print(what)
        lines = [_stripped(line) for line in capture.get().split("\n")]
        while lines and not lines[-1]:
            lines.pop()
        first = next((n for n, line in enumerate(lines) if line), 0)
        return lines[first:]

    def _console(self, columns: int) -> Console:
        from rich.console import Console
        from rich.theme import Theme

        return Console(
            file=self._out,
            theme=Theme({"markdown.code": "cyan", "markdown.h2": "bold"}),
            width=max(columns, 4),
            no_color=self._no_color or None,
            highlight=False,
            markup=False,
            emoji=False,
        )


def blocks(source: str) -> list[tuple[int, str]]:
    """Where each top-level block of `source` begins, and its type in markdown-it's words."""
    lines = [0]
    while (at := source.find("\n", lines[-1])) >= 0:
        lines.append(at + 1)
    return [
        (lines[token.map[0]], token.type)
        for token in _parser().parse(source)
        if token.level == 0 and token.map is not None and token.nesting >= 0
    ]


def steadied(block: str, kind: str) -> str:
    """An unfinished block as it will probably go on: bold and code that are open count as closed
    here, so that lines above do not change when they close; marks that may become anything are
    held back."""
    if kind == "fence":
        # the closing fence as it comes is no line of code
        return re.sub(r"\n[ \t]*(`{1,2}|~{1,2})$", "", block)
    block = _UNDECIDED.sub("", block)
    if block.count("`") % 2 and not block.endswith("`"):
        return block + "`"
    block = re.sub(r"(?<=[\s(])[*_`]{1,3}$", "", block)
    if block.count("**") % 2 and not block.endswith("*"):
        return block.rstrip() + "**"
    return block


def _stripped(line: str) -> str:
    line = _TRAILING.sub("", line)
    return f"{line}\x1b[0m" if "\x1b[" in line else line


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    # "html" off: rich leaves HTML out, and with it what the model said
    return MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")


@cache
def _markdown_class() -> Any:
    """rich is only imported when something is drawn, so these classes are made then."""
    from rich import box
    from rich.console import ConsoleOptions, RenderResult
    from rich.markdown import CodeBlock, Heading, Markdown, TableElement
    from rich.measure import Measurement
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    class LeftHeading(Heading):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            self.text.justify = "left"
            self.text.stylize("bold underline" if self.tag == "h1" else "bold")
            yield self.text

    class PlainCode(CodeBlock):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            code = str(self.text).rstrip()
            yield Syntax(
                code, self.lexer_name, theme="ansi_dark", word_wrap=True, padding=0,
                background_color="default",
            ) if code else Text("")  # fmt: skip

    class WholeTable(TableElement):
        """rich cuts what is too wide for a cell off: here it goes on below, and a table of more
        columns than can be read side by side is a list of its rows."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            header = self.header.row if self.header is not None else None
            heads = [cell.content.copy() for cell in header.cells] if header is not None else []
            for head in heads:
                head.stylize("markdown.table.header")
            body = self.body.rows if self.body is not None else []
            rows = [[cell.content for cell in row.cells] for row in body]
            table = Table(box=box.SIMPLE, pad_edge=False, style="markdown.table.border",
                          collapse_padding=True)  # fmt: skip
            for head in heads:
                table.add_column(head, overflow="fold")
            for row in rows:
                table.add_row(*row)
            unbound = options.update(max_width=sys.maxsize)  # or it is cut to what there is
            wide = Measurement.get(console, unbound, table).minimum > options.max_width
            if not rows or not wide or options.max_width >= _LEAST_COLUMN * len(heads):
                yield table
                return
            for number, row in enumerate(rows):
                yield from [Text("")] if number else []
                for head, cell in zip(heads, row, strict=False):
                    line = Text.assemble(head, ": ", cell)
                    line.overflow = "fold"
                    yield line

    class ChatMarkdown(Markdown):
        elements = {  # noqa: RUF012 - rich's own attribute
            **Markdown.elements, "heading_open": LeftHeading, "fence": PlainCode,
            "code_block": PlainCode, "table_open": WholeTable,
        }  # fmt: skip

        def __init__(self, markup: str) -> None:
            super().__init__("", hyperlinks=False)
            self.markup, self.parsed = markup, _parser().parse(markup)
            for token in self.parsed:
                for child in token.children or ():
                    if child.type == "softbreak":
                        child.type = "hardbreak"

    return ChatMarkdown
