"""What the processor did while something ran: clocks, heat, energy, throttling, others' load."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from localllm.hardware import cgroup, linux
from localllm.hardware.cpu_times import CpuTimes, cpu_times, cpu_use
from localllm.hardware.rapl import Packages, packages

MHZ = 1_000_000
# Of the time, at most: the interval grows where a sample is dear (hundreds of CPUs).
MAX_SHARE = 0.005


@dataclass(frozen=True)
class CpuLoad:
    """The processor over the time that was watched, `measured_s` of it. None: nobody tells.

    Clocks are of the CPU that was fastest when a sample was taken, among those this process may
    use (idle ones clock down): the mean of the samples and the lowest. `energy_j` is of all
    packages together; `energy_refused` says why there is none. `own_cores` counts this process
    and its children, `other_cores` everyone else on the CPUs that this process may use,
    `stolen_cores` what a virtual machine's host took; there are `n_cpus` of them. `throttled`:
    "thermal" (the kernel's counters rose), "quota" (a container's limit stopped this process).
    """

    samples: int
    measured_s: float
    mean_clock_hz: int | None
    min_clock_hz: int | None
    max_temperature_c: float | None
    mean_power_w: float | None
    energy_j: float | None
    energy_refused: str | None
    own_cores: float
    other_cores: float
    stolen_cores: float
    n_cpus: int
    throttled: tuple[str, ...]


@dataclass(frozen=True)
class _Mark:
    """Counters at one end of a stretch."""

    times: CpuTimes
    energy_uj: tuple[int, ...] | None
    throttles: int
    quota_stops: int


@dataclass
class _Sums:
    seconds: float = 0.0
    own_s: float = 0.0
    other_s: float = 0.0
    stolen_s: float = 0.0
    energy_j: float = 0.0
    throttles: int = 0
    quota_stops: int = 0
    stretches: int = 0
    unmetered: bool = False
    clocks_hz: list[float] = field(default_factory=list)
    temperatures_c: list[float] = field(default_factory=list)


class CpuSampler:
    """Watch the processor in a thread between `with` and its end; then read `load`.

    Everything between counts, or, where `watch()` is used, only what runs inside of it:
    counters are read right before and after, clocks and temperatures in between.
    """

    def __init__(self, interval_s: float = 0.5, *, root: Path = Path("/")) -> None:
        self.interval_s = interval_s
        self.load: CpuLoad | None = None
        self._root = root
        self._cpus = linux.affinity() if root == Path("/") else None
        self._packages: Packages = packages(root)
        self._sums = _Sums()
        self._whole: _Mark | None = None
        self._watching = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-sampler", daemon=True)

    def __enter__(self) -> CpuSampler:
        self._whole = self._mark()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._sums.stretches and self._whole is not None:
            self._add(self._whole, self._mark())
        self._stop.set()
        self._thread.join(self.interval_s + 5)
        self.load = self._summed()

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Count what runs inside. May be entered again and again, not at once."""
        before = self._mark()
        self._watching.set()
        try:
            yield
        finally:
            self._watching.clear()
            self._add(before, self._mark())

    def _mark(self) -> _Mark:
        return _Mark(
            times=cpu_times(self._root, self._cpus),
            energy_uj=self._packages.read(),
            throttles=_throttle_count(self._root),
            quota_stops=cgroup.quota_stops(self._root),
        )

    def _add(self, before: _Mark, after: _Mark) -> None:
        sums, use = self._sums, cpu_use(before.times, after.times)
        sums.stretches += 1
        sums.seconds += use.measured_s
        sums.own_s += use.own_cores * use.measured_s
        sums.other_s += use.other_cores * use.measured_s
        sums.stolen_s += use.stolen_cores * use.measured_s
        sums.throttles += max(0, after.throttles - before.throttles)
        sums.quota_stops += max(0, after.quota_stops - before.quota_stops)
        if before.energy_uj is None or after.energy_uj is None:
            sums.unmetered = True
        else:
            sums.energy_j += self._packages.joules(before.energy_uj, after.energy_uj)

    def _run(self) -> None:
        interval = self.interval_s
        used: tuple[list[float], list[float]] = ([], [])
        whole: tuple[list[float], list[float]] = ([], [])
        while True:
            begun = time.thread_time()
            watched = self._watching.is_set()
            clock, heat = _clock_hz(self._root, self._cpus), _temperature_c(self._root)
            for kept in (whole, used) if watched and self._watching.is_set() else (whole,):
                kept[0].extend([clock] if clock else [])
                kept[1].extend([heat] if heat is not None else [])
            interval = max(self.interval_s, (time.thread_time() - begun) / MAX_SHARE)
            if self._stop.wait(interval):
                break
        self._sums.clocks_hz, self._sums.temperatures_c = used if any(used) else whole

    def _summed(self) -> CpuLoad:
        sums, seconds = self._sums, max(self._sums.seconds, 1e-9)
        metered = not sums.unmetered
        clocks = sums.clocks_hz
        found = (("thermal", sums.throttles), ("quota", sums.quota_stops))
        return CpuLoad(
            samples=len(clocks),
            measured_s=sums.seconds,
            mean_clock_hz=round(sum(clocks) / len(clocks)) if clocks else None,
            min_clock_hz=round(min(clocks)) if clocks else None,
            max_temperature_c=max(sums.temperatures_c, default=None),
            mean_power_w=sums.energy_j / seconds if metered else None,
            energy_j=sums.energy_j if metered else None,
            energy_refused=None if metered else self._packages.refused or "a counter went silent",
            own_cores=sums.own_s / seconds,
            other_cores=sums.other_s / seconds,
            stolen_cores=sums.stolen_s / seconds,
            n_cpus=len(self._cpus) if self._cpus else os.cpu_count() or 1,
            throttled=tuple(name for name, count in found if count),
        )


# --- single readings ---------------------------------------------------------------------


def _clock_hz(root: Path, cpus: frozenset[int] | None) -> float | None:
    """The highest clock of the CPUs now: cpufreq's files, else /proc/cpuinfo, else psutil."""
    rates = [
        int(text) * 1000
        for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        if _counts(path.parts[-3], cpus) and (text := _read(path)).isdecimal()
    ]
    if not rates:
        text = _read(root / "proc/cpuinfo")
        found = re.findall(r"^processor\s*: (\d+)$.*?^cpu MHz\s*: ([\d.]+)$", text, re.M | re.S)
        rates = [round(float(mhz) * MHZ) for cpu, mhz in found if cpus is None or int(cpu) in cpus]
    if rates:
        return max(rates)
    return _psutil_clock_hz() if root == Path("/") else None


def _psutil_clock_hz() -> float | None:
    import psutil

    try:
        clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    except (OSError, RuntimeError, NotImplementedError):  # Apple silicon before psutil 5.9.3
        return None
    return clock.current * MHZ if clock and clock.current else None


def _temperature_c(root: Path) -> float | None:
    """The hottest sensor of the processor, in degrees Celsius."""
    found = []
    for folder in root.glob("sys/class/hwmon/hwmon*"):
        if _read(folder / "name") in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            texts = [_read(path) for path in folder.glob("temp*_input")]
            found += [int(text) / 1000 for text in texts if text.isdecimal()]
    for folder in root.glob("sys/class/thermal/thermal_zone*") if not found else ():
        kind = _read(folder / "type").lower()
        if "cpu" in kind or "x86_pkg" in kind or "soc" in kind:
            text = _read(folder / "temp")
            found += [int(text) / 1000] if text.isdecimal() else []
    # 0 and below is a sensor that is not there.
    return max((value for value in found if value > 0), default=None)


def _throttle_count(root: Path) -> int:
    """How often any core or package was slowed down for its heat, since the start (Intel)."""
    pattern = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"
    texts = [_read(path) for path in root.glob(pattern)]
    return sum(int(text) for text in texts if text.isdecimal())


def _counts(name: str, cpus: frozenset[int] | None) -> bool:
    number = name.removeprefix("cpu")
    return number.isdecimal() and (cpus is None or int(number) in cpus)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
