"""What NVIDIA GPUs did while something ran: clocks, power, temperature, throttling."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Any, Literal

_Order = Literal["begin", "end", "stop", "sample"]

# nvmlClocksEventReasons of nvml.h that slow a GPU down against its owner's wish. Idle and
# application-set clocks are not among them.
THROTTLE_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
}


@dataclass(frozen=True)
class GpuLoad:
    """One GPU over a sampled time. None: the driver does not tell.

    `energy_j` is the driver's own counter where it has one, else power summed over time.
    `throttled` names every reason seen in any sample.
    """

    index: int
    name: str
    samples: int
    measured_s: float
    mean_power_w: float | None
    max_power_w: float | None
    energy_j: float | None
    max_temperature_c: int | None
    min_clock_hz: int | None
    mean_clock_hz: int | None
    throttled: tuple[str, ...]


@dataclass
class _Series:
    """One GPU's samples, and the energy between readings of its counter."""

    power_w: list[float] = field(default_factory=list)
    power_at_s: list[float] = field(default_factory=list)
    temperature_c: list[int] = field(default_factory=list)
    clock_mhz: list[int] = field(default_factory=list)
    reasons: int = 0
    samples: int = 0
    seconds: float = 0.0
    counted_mj: int | None = 0  # None where a reading failed
    summed_j: float = 0.0  # power over time, of the stretches that ended


@dataclass
class _Track:
    index: int
    name: str
    handle: Any
    whole: _Series = field(default_factory=_Series)
    watched: _Series = field(default_factory=_Series)


class GpuSampler:
    """Sample all NVIDIA GPUs in a thread between `with` and its end; then read `loads`.

    Everything between counts, or, where `watch()` is used, only what ran inside of it. A
    sample takes about a millisecond a GPU, so at the default interval the sampler is busy
    under one percent of the time. Without a working driver `loads` is empty.
    """

    def __init__(self, interval_s: float = 0.2) -> None:
        self.interval_s = interval_s
        self.loads: tuple[GpuLoad, ...] = ()
        self._asked: queue.SimpleQueue[tuple[_Order, float]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="gpu-sampler", daemon=True)

    def __enter__(self) -> GpuSampler:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._order("stop")
        self._thread.join(self.interval_s + 5)  # a driver that hangs must not hold up the caller

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Count what runs inside. May be entered again and again, not at once. Never waits for
        the driver: the thread reads the counters within a millisecond or so."""
        self._order("begin")
        try:
            yield
        finally:
            self._order("end")

    def _order(self, order: _Order) -> None:
        self._asked.put((order, time.monotonic()))

    def _run(self) -> None:
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return
        try:
            tracks = _tracks()
            meters = [_Meter(track, track.whole) for track in tracks]
            watching: list[_Meter] = []
            while True:
                for meter in (*meters, *watching):
                    meter.sample()
                order, at = self._next()
                if order == "begin":
                    watching = [_Meter(track, track.watched, at) for track in tracks]
                if order in ("end", "stop"):
                    for meter in watching:
                        meter.end(at)
                    watching = []
                if order == "stop":
                    break
            for meter in meters:
                meter.end(at)
            self.loads = tuple(_load(track) for track in tracks)
        finally:
            _ask(pynvml.nvmlShutdown)

    def _next(self) -> tuple[_Order, float]:
        try:
            return self._asked.get(timeout=self.interval_s)
        except queue.Empty:
            return "sample", 0.0


class _Meter:
    """Fills a series over one stretch."""

    def __init__(self, track: _Track, series: _Series, at: float | None = None) -> None:
        self.track, self.series = track, series
        self.begun = time.monotonic() if at is None else at
        self.started_mj = _energy_mj(track)
        self.first = len(series.power_w)
        # Right at the beginning of a stretch clocks are still those of waiting.
        self.fresh = at is not None

    def sample(self) -> None:
        if self.fresh:
            self.fresh = False
        else:
            _sample(self.track.handle, self.series)

    def end(self, at: float) -> None:
        series = self.series
        if self.first == len(series.power_w):  # shorter than an interval
            _sample(self.track.handle, series)
        series.seconds += at - self.begun
        ended_mj = _energy_mj(self.track)
        if self.started_mj is None or ended_mj is None or series.counted_mj is None:
            series.counted_mj = None
        else:
            series.counted_mj += ended_mj - self.started_mj
        series.summed_j += _summed_j(series, self.first, self.begun, at)


def _tracks() -> list[_Track]:
    import pynvml

    tracks = []
    for index in range(_ask(pynvml.nvmlDeviceGetCount) or 0):
        handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
        name = _ask(pynvml.nvmlDeviceGetName, handle) if handle else None
        if name:
            tracks.append(_Track(index, name, handle))
    return tracks


def _sample(handle: Any, track: _Series) -> None:
    import pynvml

    power = _ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    if power is not None:
        track.power_w.append(power / 1000)
        track.power_at_s.append(time.monotonic())
    sensor = pynvml.NVML_TEMPERATURE_GPU
    temperature = _ask(pynvml.nvmlDeviceGetTemperatureV, handle, sensor)
    if temperature is None:  # drivers before 560
        temperature = _ask(pynvml.nvmlDeviceGetTemperature, handle, sensor)
    if temperature is not None:
        track.temperature_c.append(temperature)
    clock = _ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM)
    if clock is not None:
        track.clock_mhz.append(clock)
    reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if reasons is None:  # drivers before 535
        reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    track.reasons |= reasons or 0
    track.samples += 1


def _load(track: _Track) -> GpuLoad:
    found = track.watched if track.watched.seconds else track.whole
    clocks, watts = found.clock_mhz, found.power_w
    energy_j = found.summed_j if watts else None
    if found.counted_mj is not None:
        energy_j = found.counted_mj / 1000
    return GpuLoad(
        index=track.index,
        name=track.name,
        samples=found.samples,
        measured_s=found.seconds,
        mean_power_w=sum(watts) / len(watts) if watts else None,
        max_power_w=max(watts, default=None),
        energy_j=energy_j,
        max_temperature_c=max(found.temperature_c, default=None),
        min_clock_hz=min(clocks) * 1_000_000 if clocks else None,
        mean_clock_hz=sum(clocks) * 1_000_000 // len(clocks) if clocks else None,
        throttled=tuple(name for bit, name in THROTTLE_REASONS.items() if found.reasons & bit),
    )


def _energy_mj(track: _Track) -> int | None:
    import pynvml

    energy: int | None = _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, track.handle)
    return energy


def _summed_j(series: _Series, first: int, begun: float, ended: float) -> float:
    """Power over time from sample `first` on, by trapezoids; the ends go on level."""
    points = list(zip(series.power_at_s[first:], series.power_w[first:], strict=True))
    if not points:
        return 0.0
    points = [(begun, points[0][1]), *points, (ended, points[-1][1])]
    return sum(max(0.0, t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(points))


def _ask(function: Any, *args: Any) -> Any:
    """The answer, or None where the driver gives none."""
    import pynvml

    try:
        return function(*args)
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError, UnicodeDecodeError):
        return None
