"""What NVIDIA GPUs did while something ran: clocks, power, temperature, throttling."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Any

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
class _Track:
    index: int
    name: str
    handle: Any
    started_mj: int | None
    power_w: list[float] = field(default_factory=list)
    power_at_s: list[float] = field(default_factory=list)
    temperature_c: list[int] = field(default_factory=list)
    clock_mhz: list[int] = field(default_factory=list)
    reasons: int = 0
    samples: int = 0


class GpuSampler:
    """Sample all NVIDIA GPUs in a thread between `with` and its end; then read `loads`.

    A sample takes about a millisecond a GPU, so at the default interval the sampler is busy
    under one percent of the time. Without a working driver `loads` is empty.
    """

    def __init__(self, interval_s: float = 0.2) -> None:
        self.interval_s = interval_s
        self.loads: tuple[GpuLoad, ...] = ()
        self._stop = threading.Event()
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
        self._stop.set()
        self._thread.join(self.interval_s + 5)  # a driver that hangs must not hold up the caller

    def _run(self) -> None:
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return
        try:
            started = time.monotonic()
            tracks = _tracks()
            while True:
                for track in tracks:
                    _sample(track)
                if self._stop.wait(self.interval_s):
                    break
            elapsed = time.monotonic() - started
            self.loads = tuple(_load(track, elapsed) for track in tracks)
        finally:
            _ask(pynvml.nvmlShutdown)


def _tracks() -> list[_Track]:
    import pynvml

    tracks = []
    for index in range(_ask(pynvml.nvmlDeviceGetCount) or 0):
        handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
        name = _ask(pynvml.nvmlDeviceGetName, handle) if handle else None
        if name:
            energy = _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
            tracks.append(_Track(index, name, handle, energy))
    return tracks


def _sample(track: _Track) -> None:
    import pynvml

    power = _ask(pynvml.nvmlDeviceGetPowerUsage, track.handle)
    if power is not None:
        track.power_w.append(power / 1000)
        track.power_at_s.append(time.monotonic())
    sensor = pynvml.NVML_TEMPERATURE_GPU
    temperature = _ask(pynvml.nvmlDeviceGetTemperatureV, track.handle, sensor)
    if temperature is None:  # drivers before 560
        temperature = _ask(pynvml.nvmlDeviceGetTemperature, track.handle, sensor)
    if temperature is not None:
        track.temperature_c.append(temperature)
    clock = _ask(pynvml.nvmlDeviceGetClockInfo, track.handle, pynvml.NVML_CLOCK_SM)
    if clock is not None:
        track.clock_mhz.append(clock)
    reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, track.handle)
    if reasons is None:  # drivers before 535
        reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, track.handle)
    track.reasons |= reasons or 0
    track.samples += 1


def _load(track: _Track, elapsed_s: float) -> GpuLoad:
    clocks, watts = track.clock_mhz, track.power_w
    return GpuLoad(
        index=track.index,
        name=track.name,
        samples=track.samples,
        measured_s=elapsed_s,
        mean_power_w=sum(watts) / len(watts) if watts else None,
        max_power_w=max(watts, default=None),
        energy_j=_energy_j(track),
        max_temperature_c=max(track.temperature_c, default=None),
        min_clock_hz=min(clocks) * 1_000_000 if clocks else None,
        mean_clock_hz=sum(clocks) * 1_000_000 // len(clocks) if clocks else None,
        throttled=tuple(name for bit, name in THROTTLE_REASONS.items() if track.reasons & bit),
    )


def _energy_j(track: _Track) -> float | None:
    import pynvml

    ended_mj: int | None = _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, track.handle)
    if track.started_mj is not None and ended_mj is not None:
        return (ended_mj - track.started_mj) / 1000
    points = list(zip(track.power_at_s, track.power_w, strict=True))
    if len(points) < 2:
        return None
    return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(points))


def _ask(function: Any, *args: Any) -> Any:
    """The answer, or None where the driver gives none."""
    import pynvml

    try:
        return function(*args)
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError, UnicodeDecodeError):
        return None
