"""What a result looks like, without saying how it is drawn.

A room turns its result into these; `render` draws them on a terminal or as plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from localllm.ui.figure import BarPlot, LinePlot, ScatterPlot
from localllm.ui.marked import Marked
from localllm.ui.units import Bytes, Count, Moment, Percent, Rate, Seconds

Cell = str | int | float | None | Bytes | Seconds | Rate | Percent | Count | Moment
Tone = Literal["good", "warn", "bad", "dim", "name"]


@dataclass(frozen=True)
class Toned:
    """A cell in a colour that means something; without colour it reads the same."""

    cell: Cell
    tone: Tone

    def __str__(self) -> str:
        return text_of(self.cell)


AnyCell = Cell | Toned


@dataclass(frozen=True)
class Table:
    """Rows under columns. Columns of quantities are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[AnyCell]]
    empty: str = ""  # said on stderr when there are no rows


@dataclass(frozen=True)
class Fields:
    """Label and value, one a line; rows whose value is None are left out."""

    rows: Sequence[tuple[str, AnyCell]]


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Text:
    """Text that is data: printed as it is, never wrapped or coloured."""

    text: str


@dataclass(frozen=True)
class Note:
    """A sentence for people, beside the data."""

    text: str
    tone: Tone = "dim"


@dataclass(frozen=True)
class Tree:
    label: str
    children: Sequence[Tree] = field(default_factory=tuple)


Part = Table | Fields | Heading | Text | Marked | Note | Tree | BarPlot | LinePlot | ScatterPlot
View = Part | Sequence[Part]


def parts(view: View) -> Sequence[Part]:
    """A view as the sequence of its parts."""
    return view if isinstance(view, Sequence) else (view,)


def text_of(cell: AnyCell) -> str:
    """A cell as plain text; `-` for what is not known."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return str(cell)
