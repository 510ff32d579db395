"""Lines and points between axes, drawn on a canvas."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from localllm.ui.canvas import Canvas, Line
from localllm.ui.cells import clean
from localllm.ui.figure import LinePlot, Point, ScatterPlot, pareto_front
from localllm.ui.scale import Scale, number, scale_of

ROWS = 14
_SIGNS = "●▲■◆○△□◇"
_ASCII_SIGNS = "o*x+#@%&"
_LETTERS = "123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def curves(figure: LinePlot | ScatterPlot, width: int, ascii: bool) -> Iterator[Line]:
    """The plot with its axes, and under it what its signs mean."""
    points = [p for one in figure.series for p in one.points]
    bounds = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    x, y = scale_of(figure.x, [p.x for p in points]), scale_of(figure.y, bounds)
    if x is None or y is None:
        yield [("nothing to draw", "dim")]
        return
    ticks = y.ticks(5)
    labels = [y.text(tick, ticks) for tick in ticks]
    margin = max(map(len, labels))
    canvas = Canvas(max(width - margin - 2, 10), ROWS, ascii)
    front = pareto_front(points, figure.front) if _has_front(figure) else ()  # type: ignore[union-attr,arg-type]
    signs = _paint(canvas, figure, x, y, front, ascii)
    rows = {round((1 - (y.share(t * y.factor) or 0)) * (ROWS - 1)): text
            for t, text in zip(ticks, labels, strict=True)}  # fmt: skip
    yield [(y.title, "dim")]
    bar, joint = ("|", "+") if ascii else ("│", "┤")
    for row, line in enumerate(canvas.lines()):
        edge = joint if row in rows else bar
        yield [(rows.get(row, "").rjust(margin) + edge, "dim"), *line]
    yield from _bottom(x, canvas.columns, margin, ascii)
    yield from _legend(figure, signs, front, x, y)


def _has_front(figure: LinePlot | ScatterPlot) -> bool:
    return isinstance(figure, ScatterPlot) and figure.front is not None


def _paint(
    canvas: Canvas,
    figure: LinePlot | ScatterPlot,
    x: Scale,
    y: Scale,
    front: tuple[Point, ...],
    ascii: bool,
) -> dict[int, str]:
    """Draw everything; returns each series' sign, or each labelled point's by its place."""
    signs: dict[int, str] = {}
    placed = 0
    upright = "|" if ascii else "│"
    if front:
        _join(canvas, list(front), x, y, "dim")
    for number_, series in enumerate(figure.series):
        style = f"series{number_}"
        sign = (_ASCII_SIGNS if ascii else _SIGNS)[number_ % 8]
        signs[number_] = sign
        drawn = sorted(series.points, key=lambda p: p.x)
        if isinstance(figure, LinePlot):
            _join(canvas, drawn, x, y, style)
        # Of a dense line every point's sign would hide it: one in so many is enough.
        every = max(1, len(drawn) * 6 // canvas.columns) if isinstance(figure, LinePlot) else 1
        for n, point in enumerate(drawn):
            at, height = x.share(point.x), y.share(point.y)
            if at is None or height is None:
                continue
            if point.low is not None and point.high is not None:
                ends = (y.clamped(point.low), y.clamped(point.high))
                canvas.upright(at, *ends, upright, style)
            if isinstance(figure, ScatterPlot) and point.label and placed < len(_LETTERS):
                canvas.mark(at, height, _LETTERS[placed], style)
                placed += 1
            elif n % every == 0 or n == len(drawn) - 1:
                canvas.mark(at, height, sign, style)
    return signs


def _join(canvas: Canvas, points: list[Point], x: Scale, y: Scale, style: str) -> None:
    places = [(x.share(p.x), y.share(p.y)) for p in points]
    for (x0, y0), (x1, y1) in pairwise(places):
        if x0 is not None and y0 is not None and x1 is not None and y1 is not None:
            canvas.line((x0, y0), (x1, y1), style)


def _bottom(x: Scale, columns: int, margin: int, ascii: bool) -> Iterator[Line]:
    ticks = x.ticks(max(2, min(6, columns // 12)))
    rule = ["-" if ascii else "─"] * columns
    text = [" "] * (columns + margin + 1)
    free = 0  # the first cell that no label has taken
    for tick in ticks:
        share = x.share(tick * x.factor)
        if share is None:
            continue
        at = round(share * (columns - 1))
        label = x.text(tick, ticks)
        start = max(min(margin + 1 + at - len(label) // 2, len(text) - len(label)), 0)
        if start < free:
            continue
        rule[at] = "+" if ascii else "┬"
        text[start : start + len(label)] = label
        free = start + len(label) + 1
    yield [(" " * margin + ("+" if ascii else "└") + "".join(rule), "dim")]
    yield [("".join(text).rstrip(), "dim")]
    yield [((" " * (margin + 1) + x.title.rjust(columns)), "dim")]


def _legend(
    figure: LinePlot | ScatterPlot,
    signs: dict[int, str],
    front: tuple[Point, ...],
    x: Scale,
    y: Scale,
) -> Iterator[Line]:
    if isinstance(figure, LinePlot):
        if len(figure.series) > 1 or figure.series[0].name:
            for number_, series in enumerate(figure.series):
                yield [(f"{signs[number_]} {clean(series.name)}", f"series{number_}")]
        return
    placed = 0
    for number_, series in enumerate(figure.series):
        if series.name and len(figure.series) > 1:
            yield [(f"{signs[number_]} {clean(series.name)}", f"series{number_}")]
        for point in sorted(series.points, key=lambda p: p.x):
            off = x.share(point.x) is None or y.share(point.y) is None
            if not point.label or off or placed >= len(_LETTERS):
                continue
            best = "  on the front" if point in front else ""
            place = (
                f"  {number(point.x / x.factor)} {x.unit}, {number(point.y / y.factor)} {y.unit}"
            )
            yield [(f"{_LETTERS[placed]} {clean(point.label)}", f"series{number_}"),
                   (place.rstrip(), "dim"), (best, "good")]  # fmt: skip
            placed += 1
