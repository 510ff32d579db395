"""Points and lines as characters: braille dots four high and two wide, or plain ASCII."""

from __future__ import annotations

from dataclasses import dataclass, field

Segment = tuple[str, str]  # text and a style's name, "" for none
Line = list[Segment]

# The bit of each dot in a braille character, by column and row.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BRAILLE = 0x2800


@dataclass
class Canvas:
    """`columns` times `rows` characters. Places are shares of the way: 0, 0 is bottom left."""

    columns: int
    rows: int
    ascii: bool
    _dots: dict[tuple[int, int], int] = field(default_factory=dict)
    _signs: dict[tuple[int, int], str] = field(default_factory=dict)
    _styles: dict[tuple[int, int], str] = field(default_factory=dict)

    def mark(self, x: float, y: float, sign: str, style: str) -> None:
        """One character, over everything else there."""
        place = self._cell(x, y, self.columns, self.rows)
        self._signs[place] = sign
        self._styles[place] = style

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        """Dots on the way; they give way to marks."""
        wide, high = (1, 1) if self.ascii else (2, 4)
        width, height = self.columns * wide, self.rows * high
        a, b = self._cell(*start, width, height), self._cell(*end, width, height)
        steps = max(abs(b[0] - a[0]), abs(b[1] - a[1]), 1)
        for n in range(steps + 1):
            column = round(a[0] + (b[0] - a[0]) * n / steps)
            row = round(a[1] + (b[1] - a[1]) * n / steps)
            place = (column // wide, row // high)
            bit = 1 if self.ascii else _DOTS[column % 2][row % 4]
            self._dots[place] = self._dots.get(place, 0) | bit
            self._styles.setdefault(place, style)

    def upright(self, x: float, low: float, high: float, sign: str, style: str) -> None:
        """An interval: a column of `sign` that gives way to everything."""
        column, bottom = self._cell(x, low, self.columns, self.rows)
        top = self._cell(x, high, self.columns, self.rows)[1]
        for row in range(top, bottom + 1):
            if (column, row) not in self._signs and (column, row) not in self._dots:
                self._signs[column, row] = sign
                self._styles[column, row] = style

    def lines(self) -> list[Line]:
        """From the top, each a list of runs of one style."""
        return [self._line(row) for row in range(self.rows)]

    def _line(self, row: int) -> Line:
        line: Line = []
        for column in range(self.columns):
            place = (column, row)
            text, style = self._sign(place), self._styles.get(place, "")
            if line and line[-1][1] == style:
                line[-1] = (line[-1][0] + text, style)
            else:
                line.append((text, style))
        return line

    def _sign(self, place: tuple[int, int]) -> str:
        if place in self._signs:
            return self._signs[place]
        if not (dots := self._dots.get(place, 0)):
            return " "
        return "." if self.ascii else chr(_BRAILLE + dots)

    @staticmethod
    def _cell(x: float, y: float, width: int, height: int) -> tuple[int, int]:
        column = min(max(round(x * (width - 1)), 0), width - 1)
        return column, min(max(round((1 - y) * (height - 1)), 0), height - 1)
