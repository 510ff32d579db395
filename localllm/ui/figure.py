"""What a plot shows, whoever draws it: `ui.plot` on a terminal, `ui.page` in a browser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

AxisKind = Literal["number", "bytes", "seconds", "moment"]
Better = Literal["low", "high"]


@dataclass(frozen=True)
class Axis:
    """`kind` says what the values are: bytes, seconds and moments (seconds since the epoch) are
    shown in fitting units, a number in `unit`. `log` leaves values of 0 and below out.
    `from_zero` lets the axis begin at 0, so that lengths can be compared."""

    label: str
    unit: str = ""
    kind: AxisKind = "number"
    log: bool = False
    from_zero: bool = False


@dataclass(frozen=True)
class Bar:
    """`low` and `high` bound the value (a confidence interval). `value` None: there is none,
    and `note` says why; else `note` is what one should know beside it."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class BarSeries:
    name: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class BarPlot:
    """Bars that begin at 0; those of several series that have one label stand together."""

    title: str
    value: Axis
    series: Sequence[BarSeries]
    caption: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """Each label once, in the order of the series."""
        return tuple(dict.fromkeys(bar.label for one in self.series for bar in one.bars))


@dataclass(frozen=True)
class Point:
    """`low` and `high` bound y. `label` names the point itself."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class LinePlot:
    """Points joined in the order of x."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    caption: str = ""


@dataclass(frozen=True)
class Front:
    """In which direction each axis is better, to mark the points that no other one beats."""

    x: Better
    y: Better


@dataclass(frozen=True)
class ScatterPlot:
    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    front: Front | None = None
    caption: str = ""


Figure = BarPlot | LinePlot | ScatterPlot


def pareto_front(points: Iterable[Point], front: Front) -> tuple[Point, ...]:
    """The points for which no other is at least as good on both axes and better on one, by x."""
    known = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
    x_sign = 1 if front.x == "low" else -1
    y_sign = 1 if front.y == "low" else -1
    best: list[Point] = []
    for point in sorted(known, key=lambda p: (x_sign * p.x, y_sign * p.y)):
        same = bool(best) and (point.x, point.y) == (best[-1].x, best[-1].y)
        if not best or same or y_sign * point.y < y_sign * best[-1].y:
            best.append(point)
    return tuple(sorted(best, key=lambda p: p.x))
