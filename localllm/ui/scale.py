"""Axes: the unit a plot is drawn in, round ticks, and how they read."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from localllm.ui.cells import clean
from localllm.ui.figure import Axis

_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_SECONDS = ((7200, 3600.0, "h"), (120, 60.0, "min"), (1, 1.0, "s"), (1e-3, 1e-3, "ms"))
_STEPS_S = (60, 300, 900, 3600, 6 * 3600, 86400, 2 * 86400, 7 * 86400, 28 * 86400, 91 * 86400,
            365 * 86400)  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """An axis with the range of its values, in units of `factor` raw ones."""

    axis: Axis
    low: float
    high: float
    factor: float
    unit: str

    def share(self, value: float) -> float | None:
        """Where the raw `value` lies: 0 at the low end, 1 at the high one. None off the axis."""
        value /= self.factor
        if self.axis.log and value <= 0:
            return None
        low, high, at = (_log(v) if self.axis.log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low)
        return share if -1e-9 <= share <= 1 + 1e-9 else None

    def clamped(self, value: float) -> float:
        """The same, held within 0 and 1: for ends of intervals that run off the axis."""
        if self.axis.log and value <= 0:
            return 0.0
        found = self.share(value)
        return found if found is not None else float(value / self.factor > self.high)

    @property
    def title(self) -> str:
        return clean(f"{self.axis.label} ({self.unit})" if self.unit else self.axis.label)

    def ticks(self, about: int) -> tuple[float, ...]:
        """Round values within the range, in the axis's unit, `about` so many."""
        if self.axis.kind == "moment":
            return _moments(self.low, self.high, about)
        return _decades(self.low, self.high, about) if self.axis.log else self._even(about)

    def _even(self, about: int) -> tuple[float, ...]:
        step = _round_step((self.high - self.low) / max(about - 1, 1))
        first = math.ceil(self.low / step - 1e-9)
        return tuple(step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1))

    def text(self, tick: float, ticks: Sequence[float]) -> str:
        """A tick, with the digits that tell it from its neighbours."""
        if self.axis.kind == "moment":
            form = "%m-%d" if self.high - self.low > 2 * 86400 else "%m-%d %H:%M"
            return time.strftime(form, time.localtime(tick))
        if self.axis.log or len(ticks) < 2:
            return number(tick)
        step = abs(ticks[1] - ticks[0])
        if not 1e-6 <= step < 1e9:
            return number(tick)
        return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def number(value: float) -> str:
    """Four digits, whole thousands by commas."""
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def scale_of(axis: Axis, values: Sequence[float]) -> Scale | None:
    """The scale that holds all finite `values`; None where there are none.

    A linear scale grows to round ticks, a logarithmic one to a little beyond the values.
    """
    known = [v for v in values if math.isfinite(v) and (v > 0 or not axis.log)]
    if not known:
        return None
    factor, unit = unit_of(axis, known)
    low, high = min(known) / factor, max(known) / factor
    if axis.from_zero and not axis.log:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        spare = abs(low) * 0.1 or 1.0
        low, high = (low / 2, high * 2) if axis.log else (low - spare, high + spare)
    if not axis.log and axis.kind != "moment":
        step = _round_step((high - low) / 4)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Scale(axis, low, high, factor, unit)


def unit_of(axis: Axis, values: Sequence[float]) -> tuple[float, str]:
    """What to divide by, and the unit's name then."""
    largest = max((abs(v) for v in values), default=0.0)
    if axis.kind == "bytes":
        return next(((float(f), name) for f, name in _BYTES if largest >= f), (1.0, "B"))
    if axis.kind == "seconds":
        found = ((factor, name) for least, factor, name in _SECONDS if largest >= least)
        return next(found, (1e-6, "µs"))
    return 1.0, "" if axis.kind == "moment" else axis.unit


def _round_step(least: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, the next above `least`."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(m for m in (1, 2, 2.5, 5, 10) if m * power >= least * (1 - 1e-9)) * power


def _decades(low: float, high: float, about: int) -> tuple[float, ...]:
    """Powers of ten; with 2 and 5 between them, or powers of two, where those are few."""
    first, last = math.floor(_log(low)), math.ceil(_log(high))
    for factors in ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)):
        every = max(1, math.ceil((last - first) / max(about, 1)))
        found = [f * 10.0**n for n in range(first, last + 1, every) for f in factors]
        inside = [v for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
        if len(inside) >= min(about, 3):
            return tuple(inside)
    return (low, high)


def _moments(low: float, high: float, about: int) -> tuple[float, ...]:
    wanted = (high - low) / max(about, 1)
    step = next((s for s in _STEPS_S if s >= wanted), _STEPS_S[-1])
    shift = time.localtime(low).tm_gmtoff  # days begin at local midnight
    first = math.ceil((low + shift) / step)
    return tuple(step * n - shift for n in range(first, math.floor((high + shift) / step) + 1))


def _log(value: float) -> float:
    return math.log10(value)
