"""Figures on a terminal, or as plain ASCII.

Own code, over the library plotext: that one renamed every public function between its versions
5 and 6, keeps one global figure, takes a quarter of a second to import, and has neither bars
with intervals nor an ASCII form; beside rich, which colours these lines, little is left to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from localllm.ui.canvas import Line
from localllm.ui.cells import cells, clean, fitted
from localllm.ui.curves import curves
from localllm.ui.figure import Bar, BarPlot, Figure
from localllm.ui.scale import Scale, number, scale_of

LEAST_WIDTH = 40  # below that a plot says nothing; its lines then run over


def draw(figure: Figure, width: int, *, ascii: bool) -> Iterator[Line]:
    """The figure's lines, at most `width` cells wide (but at least LEAST_WIDTH).

    Styles are "title", "dim", "warn" and "series0", "series1" and so on. What colour tells,
    signs tell too.
    """
    width = max(width, LEAST_WIDTH)
    yield [(clean(figure.title), "title")]
    if isinstance(figure, BarPlot):
        yield from _bars(figure, width, ascii)
    else:
        yield from curves(figure, width, ascii)
    if figure.caption:
        yield [(clean(figure.caption), "dim")]


def sparkline(values: Sequence[float], *, ascii: bool) -> str:
    """A character a value, from the lowest to the highest of them."""
    levels = "_.-~^" if ascii else "▁▂▃▄▅▆▇█"
    if not values:
        return ""
    low, high = min(values), max(values)
    if high <= low:
        return levels[len(levels) // 2] * len(values)
    top = len(levels) - 1
    return "".join(levels[round((value - low) / (high - low) * top)] for value in values)


# --- bars -------------------------------------------------------------------------------------


def _bars(figure: BarPlot, width: int, ascii: bool) -> Iterator[Line]:
    found = [bar for one in figure.series for bar in one.bars]
    values = [v for b in found for v in (b.value, b.low, b.high) if v is not None]
    scale = scale_of(figure.value, [*values, 0.0])
    if scale is None or not values:
        yield [("nothing to draw", "dim")]
        return
    names = [s.name for s in figure.series] if len(figure.series) > 1 else []
    label_room = min(max(cells(clean(b.label)) for b in found), width // 3)
    name_room = min(max((cells(clean(n)) for n in names), default=-1) + 1, width // 5)
    texts = [_figures(bar, scale) for bar in found]
    figure_room = min(max(map(len, texts)), width // 3)
    room = max(width - label_room - name_room - figure_room - 2, 8)
    unit = scale.unit or figure.value.label
    yield [(" " * (label_room + name_room + 1) + fitted(unit, room, ascii).rstrip(), "dim")]
    for label in figure.labels:
        shown = fitted(label, label_room, ascii)
        for number_, series in enumerate(figure.series):
            for bar in (b for b in series.bars if b.label == label):
                style = f"series{number_}"
                name = fitted(series.name, name_room - 1, ascii) + " " if names else ""
                rest = width - label_room - name_room - 1
                yield [(shown + " ", ""), (name, style), *_bar(bar, scale, room, style, ascii)]
                if bar.note:
                    note = fitted(bar.note, rest, ascii).rstrip()
                    yield [(" " * (width - rest) + note, "warn")]
                shown = " " * label_room


def _figures(bar: Bar, scale: Scale) -> str:
    if bar.value is None:
        return ""
    text = number(bar.value / scale.factor)
    if bar.low is not None and bar.high is not None:
        text += f" [{number(bar.low / scale.factor)}, {number(bar.high / scale.factor)}]"
    return text


def _bar(bar: Bar, scale: Scale, room: int, style: str, ascii: bool) -> Line:
    if bar.value is None:
        return [("-", "warn")]
    low = bar.value if bar.low is None else bar.low
    high = bar.value if bar.high is None else bar.high
    start, end = (round(scale.clamped(v) * room) for v in (low, high))
    at = round(scale.clamped(bar.value) * room)
    body = _body(scale.clamped(bar.value) * room, ascii)
    if end - start >= 2:  # an interval wide enough to be seen
        left, right, dash, cross = "|", "|", "-", "+"
        if not ascii:
            left, right, dash, cross = "├", "┤", "─", "┼"
        whisker = [dash] * (end - start)
        whisker[0], whisker[-1] = left, right
        if 0 < at - start < len(whisker) - 1:
            whisker[at - start] = cross
        body = body[:start].ljust(start) + "".join(whisker)
    return [(body.ljust(room) + " ", style), (_figures(bar, scale), "")]


def _body(length: float, ascii: bool) -> str:
    if ascii:
        return "=" * max(round(length), 0)
    eighths = round(length * 8)
    return "█" * (eighths // 8) + "▏▎▍▌▋▊▉"[eighths % 8 - 1 : eighths % 8]
