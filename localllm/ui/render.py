"""Draw a view: with rich on a terminal, as plain aligned text elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from localllm.ui.cells import cells
from localllm.ui.figure import BarPlot, LinePlot, ScatterPlot
from localllm.ui.marked import Marked, pieces, plain_text, style_of
from localllm.ui.plot import draw
from localllm.ui.view import (
    AnyCell,
    Fields,
    Heading,
    Note,
    Part,
    Table,
    Text,
    Toned,
    Tree,
    View,
    parts,
    text_of,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_READABLE = 18  # the least for a column of longer texts
_SHORT = 12  # columns of words up to this wide are not broken
_PLAIN_WIDTH = 80  # of plots where no terminal says how wide it is
_SERIES = ("cyan", "magenta", "green", "yellow", "blue", "red")
_STYLES = {"good": "green", "warn": "yellow", "bad": "red", "dim": "dim", "name": "cyan"}


def plain(view: View) -> Iterator[str]:
    """Lines without colour or boxes, nothing cut off, for pipes and files."""
    for number, part in enumerate(parts(view)):
        if number and isinstance(part, Heading):
            yield ""
        yield from _plain_part(part)


def _plain_part(part: Part) -> Iterator[str]:
    if isinstance(part, Table):
        if part.rows:
            yield from _columns([part.columns, *part.rows])
    elif isinstance(part, Fields):
        rows = [(label, cell) for label, cell in part.rows if cell is not None]
        width = max((cells(label) for label, _ in rows), default=0)
        for label, cell in rows:
            yield f"{label}{' ' * (width - cells(label))}  {text_of(cell)}"
    elif isinstance(part, Tree):
        yield from _branch(part, "", "")
    elif isinstance(part, BarPlot | LinePlot | ScatterPlot):
        for line in draw(part, _PLAIN_WIDTH, ascii=True):
            yield "".join(text for text, _ in line).rstrip()
    elif isinstance(part, Marked):
        yield plain_text(part)
    else:
        yield part.text


def _columns(rows: Sequence[Sequence[AnyCell]]) -> Iterator[str]:
    texts = [[text_of(cell) for cell in row] for row in rows]
    widths = [max(cells(row[i]) for row in texts) for i in range(len(texts[0]))]
    right = [_is_quantity(rows, i) for i in range(len(widths))]
    for row in texts:
        line = []
        for text, width, to_right in zip(row, widths, right, strict=True):
            pad = " " * (width - cells(text))
            line.append(pad + text if to_right else text + pad)
        yield "  ".join(line).rstrip()


def _is_quantity(rows: Sequence[Sequence[AnyCell]], column: int) -> bool:
    cells = [c.cell if isinstance(c := row[column], Toned) else c for row in rows[1:]]
    known = [cell for cell in cells if cell is not None]
    return bool(known) and not any(isinstance(cell, str) for cell in known)


def _branch(tree: Tree, first: str, rest: str) -> Iterator[str]:
    yield first + tree.label
    for number, child in enumerate(tree.children):
        last = number == len(tree.children) - 1
        joint, below = ("└── ", "    ") if last else ("├── ", "│   ")
        yield from _branch(child, rest + joint, rest + below)


def rich(view: View, file: TextIO, no_color: bool, width: int | None = None) -> None:
    """Draw on a terminal, as wide as it is unless `width` says otherwise."""
    from rich.console import Console

    console = Console(file=file, no_color=no_color or None, highlight=False, width=width)
    for number, part in enumerate(parts(view)):
        if number and isinstance(part, Heading):
            console.print()
        _rich_part(console, part)


def _rich_part(console: Console, part: Part) -> None:
    from rich.text import Text as RichText

    if isinstance(part, Table):
        if part.rows and _least_width(part) <= console.width:
            console.print(_rich_table(part))
        elif part.rows:  # too narrow for columns: each row a block of its own
            for row in part.rows:
                fields = Fields(list(zip(part.columns, row, strict=True)))
                console.print(_rich_fields(fields), RichText(""), sep="\n")
    elif isinstance(part, Fields):
        console.print(_rich_fields(part))
    elif isinstance(part, Heading):
        console.print(RichText(part.text, style="bold"))
    elif isinstance(part, Note):
        console.print(RichText(part.text, style=_STYLES[part.tone]))
    elif isinstance(part, Tree):
        for line in _branch(part, "", ""):
            console.print(RichText(line))
    elif isinstance(part, BarPlot | LinePlot | ScatterPlot):
        _rich_plot(console, part)
    elif isinstance(part, Marked):
        _rich_marked(console, part)
    elif isinstance(part, Text):
        console.file.write(part.text + "\n")


def _rich_plot(console: Console, part: BarPlot | LinePlot | ScatterPlot) -> None:
    from rich.text import Text as RichText

    for line in draw(part, console.width, ascii=not console.encoding.startswith("utf")):
        text = RichText(no_wrap=True, overflow="ignore")
        for piece, name in line:
            text.append(piece, _plot_style(name))
        console.print(text, crop=False)
    console.print()


def _rich_marked(console: Console, part: Marked) -> None:
    """With signs where there is no colour to tell."""
    from rich.text import Text as RichText

    if console.no_color:
        console.print(RichText(plain_text(part)))
        return
    text = RichText()
    for piece, weight in pieces(part):
        text.append(piece, style_of(weight))
    console.print(text)
    legend = RichText(part.up, style_of(0.1)).append(", ", "dim").append(part.down, style_of(-0.1))
    console.print(legend)


def _plot_style(name: str) -> str:
    if name.startswith("series"):
        return _SERIES[int(name.removeprefix("series")) % len(_SERIES)]
    return "bold" if name == "title" else _STYLES.get(name, "")


def _least_width(part: Table) -> int:
    """Terminal cells below which columns of long texts would be broken beyond reading."""
    total = 0
    for number, column in enumerate(part.columns):
        rows: list[Sequence[AnyCell]] = [part.columns, *part.rows]
        width = max(cells(text_of(row[number])) for row in rows)
        fixed = _is_quantity(rows, number) or width <= _SHORT
        total += 3 + (width if fixed else min(width, max(_READABLE, cells(column))))
    return total - 3


def _rich_table(part: Table) -> RenderableType:
    from rich import box
    from rich.table import Table as RichTable

    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    rows: list[Sequence[AnyCell]] = [part.columns, *part.rows]
    for number, column in enumerate(part.columns):
        right = _is_quantity(rows, number)
        width = max(cells(text_of(row[number])) for row in rows)
        # A figure is never cut off, nor a short word broken; long texts make room for them.
        table.add_column(
            column,
            justify="right" if right else "left",
            min_width=width if right or width <= _SHORT else None,
            no_wrap=right,
            overflow="fold",
        )
    for row in part.rows:
        table.add_row(*[_rich_cell(cell) for cell in row])
    return table


def _rich_fields(part: Fields) -> RenderableType:
    from rich.table import Table as RichTable

    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, cell in part.rows:
        if cell is not None:
            grid.add_row(label, _rich_cell(cell))
    return grid


def _rich_cell(cell: AnyCell) -> RenderableType:
    from rich.text import Text as RichText

    style = _STYLES[cell.tone] if isinstance(cell, Toned) else ""
    return RichText(text_of(cell), style=style)
