"""Figures as the JSON that assets/page.js draws, and as tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from localllm.ui.figure import Axis, BarPlot, Figure, LinePlot, ScatterPlot, Series, pareto_front
from localllm.ui.scale import unit_of
from localllm.ui.units import Bytes, Moment, Seconds
from localllm.ui.view import AnyCell, Cell, Table

_HARMFUL = re.compile(r"[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
_PLOT_PX = 300
_BAR_PX = 24


def harmless(text: str) -> str:
    """What UTF-8 or HTML cannot hold as U+FFFD, and so the marks that would turn the direction
    of what follows: names come from files."""
    return _HARMFUL.sub("\ufffd", text)


def height_px(figure: Figure) -> int:
    """How high the plot stands: bars by their number."""
    if isinstance(figure, BarPlot):
        return 70 + len(figure.labels) * (14 + _BAR_PX * max(len(figure.series), 1))
    return _PLOT_PX


def description(figure: Figure) -> dict[str, Any]:
    """Numbers in the units of the axes, None where there is none or the axis cannot show it."""
    return _bar_plot(figure) if isinstance(figure, BarPlot) else _curves(figure)


def missing(figure: Figure) -> tuple[str, ...]:
    """Why bars are not there, each reason once with the first it holds for."""
    if not isinstance(figure, BarPlot):
        return ()
    found: dict[str, str] = {}
    for one in figure.series:
        for bar in one.bars:
            if bar.value is None and bar.note:
                found.setdefault(bar.note, f"{bar.label} {one.name}".strip())
    return tuple(f"{who}: {why}" for why, who in found.items())


def _bar_plot(figure: BarPlot) -> dict[str, Any]:
    found = [bar for one in figure.series for bar in one.bars]
    factor, axis = _axis(figure.value, [b.value for b in found])
    series = []
    for one in figure.series:
        by_label = {bar.label: bar for bar in one.bars}
        bars = [by_label.get(label) for label in figure.labels]
        if len(figure.series) > 1 and all(bar is None or bar.value is None for bar in bars):
            continue  # all failed: the table says why, a colour without bars says nothing
        series.append({
            "name": harmless(one.name),
            "bars": [
                {"value": None, "low": None, "high": None, "note": ""} if bar is None
                else {**{key: _scaled(getattr(bar, key), factor, figure.value)
                         for key in ("value", "low", "high")}, "note": harmless(bar.note)}
                for bar in bars
            ],
        })  # fmt: skip
    axis["from_zero"] = not figure.value.log
    return {
        "kind": "bar",
        "labels": [harmless(label) for label in figure.labels],
        "value": axis,
        "series": series,
        "named": len(figure.series) > 1,
    }


def _curves(figure: LinePlot | ScatterPlot) -> dict[str, Any]:
    points = [p for one in figure.series for p in one.points]
    x_factor, x = _axis(figure.x, [p.x for p in points])
    y_factor, y = _axis(figure.y, [p.y for p in points])

    def drawn(series: Series) -> list[dict[str, Any]]:
        made = [
            {
                "x": _scaled(p.x, x_factor, figure.x),
                "y": _scaled(p.y, y_factor, figure.y),
                "low": _scaled(p.low, y_factor, figure.y),
                "high": _scaled(p.high, y_factor, figure.y),
                "label": harmless(p.label),
            }
            for p in sorted(series.points, key=lambda p: p.x)
        ]
        return [p for p in made if p["x"] is not None and p["y"] is not None]

    made: dict[str, Any] = {
        "kind": "line" if isinstance(figure, LinePlot) else "scatter",
        "x": x,
        "y": y,
        "series": [{"name": harmless(one.name), "points": drawn(one)} for one in figure.series],
    }
    if isinstance(figure, ScatterPlot) and figure.front is not None:
        best = pareto_front(points, figure.front)
        made["front"] = [{"x": p.x / x_factor, "y": p.y / y_factor} for p in best]
    return made


def _axis(axis: Axis, values: Sequence[float | None]) -> tuple[float, dict[str, Any]]:
    factor, unit = unit_of(axis, [v for v in values if v is not None])
    title = f"{axis.label} ({unit})" if unit else axis.label
    return factor, {
        "title": title,
        "unit": unit,
        "kind": axis.kind,
        "log": axis.log,
        "from_zero": axis.from_zero,
    }


def _scaled(value: float | None, factor: float, axis: Axis) -> float | None:
    if value is None or value != value or (axis.log and value <= 0):
        return None
    return value / factor


def figure_table(figure: Figure) -> Table:
    """Every figure of the plot; columns that nobody fills are left out."""
    if isinstance(figure, BarPlot):
        columns = ["series", "", _name(figure.value), "low", "high", "note"]
        rows = [
            [one.name, bar.label, _value(bar.value, figure.value), _value(bar.low, figure.value),
             _value(bar.high, figure.value), bar.note or None]
            for one in figure.series for bar in one.bars
        ]  # fmt: skip
        return _filled(columns, rows)
    columns = ["series", "", _name(figure.x), _name(figure.y), "low", "high"]
    rows = [
        [one.name or None, p.label or None, _value(p.x, figure.x),
         *(_value(v, figure.y) for v in (p.y, p.low, p.high))]
        for one in figure.series for p in sorted(one.points, key=lambda p: p.x)
    ]  # fmt: skip
    return _filled(columns, rows)


def _name(axis: Axis) -> str:
    return f"{axis.label} ({axis.unit})" if axis.unit else axis.label


def _value(value: float | None, axis: Axis) -> Cell:
    if value is None:
        return None
    if axis.kind == "bytes":
        return Bytes(round(value))
    if axis.kind == "seconds":
        return Seconds(value)
    return Moment(value) if axis.kind == "moment" else value


def _filled(columns: Sequence[str], rows: Sequence[Sequence[AnyCell]]) -> Table:
    kept = [n for n in range(len(columns)) if any(row[n] not in (None, "") for row in rows)]
    return Table([columns[n] for n in kept], [[row[n] for n in kept] for row in rows])
