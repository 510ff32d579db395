"""Who used the processor: counters of this process tree and of everyone, taken together.

Two `CpuTimes` give the load between them. On Linux they are of the CPUs this process may run
on (a container's cpuset included; /proc/stat shows the host's processes there too, which is
meant: they compete for the same cores); elsewhere of all CPUs.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class CpuTimes:
    """Seconds since some start: of the clock, of this process and its children (all their
    threads, native ones too), of everyone's work, and stolen by the host of a virtual machine."""

    at_s: float
    own_s: float
    busy_s: float
    stolen_s: float


@dataclass(frozen=True)
class CpuUse:
    """Cores kept busy on average over `measured_s`; `stolen_cores` is time that a virtual
    machine's host gave to others."""

    measured_s: float
    own_cores: float
    other_cores: float
    stolen_cores: float


def cpu_times(root: Path = Path("/"), cpus: frozenset[int] | None = None) -> CpuTimes:
    """Read all counters now (about 0.1 ms on Linux). `cpus` None counts all."""
    busy, stolen = _linux(root, cpus) or _portable()
    return CpuTimes(time.perf_counter(), _own_s(), busy, stolen)


def cpu_use(before: CpuTimes, after: CpuTimes) -> CpuUse:
    """The load between two readings. Others' is what is left of everyone's."""
    span = max(after.at_s - before.at_s, 1e-9)
    own = max(0.0, after.own_s - before.own_s)
    busy = max(0.0, after.busy_s - before.busy_s)
    stolen = max(0.0, after.stolen_s - before.stolen_s)
    return CpuUse(span, own / span, max(0.0, busy - own) / span, stolen / span)


def _own_s() -> float:
    """This process by its own precise clock; children that ended, and those that still run."""
    import psutil

    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    try:
        children = psutil.Process().children(recursive=True)
    except psutil.Error:
        return total
    for child in children:
        try:
            spent = child.cpu_times()
        except psutil.Error:  # gone meanwhile
            continue
        total += spent.user + spent.system
        total += getattr(spent, "children_user", 0.0) + getattr(spent, "children_system", 0.0)
    return total


def _linux(root: Path, cpus: frozenset[int] | None) -> tuple[float, float] | None:
    """Busy and stolen seconds from /proc/stat: user, nice, system, irq and softirq (guests are
    in user), and steal."""
    try:
        text = (root / "proc/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    busy = stolen = 0
    found = False
    for number, line in re.findall(r"^cpu(\d+) (.*)$", text, re.MULTILINE):
        if cpus is not None and int(number) not in cpus:
            continue
        ticks = [int(t) for t in line.split() if t.isdecimal()] + [0] * 8
        busy += ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]
        stolen += ticks[7]
        found = True
    return (busy / _TICKS, stolen / _TICKS) if found else None


def _portable() -> tuple[float, float]:
    import psutil

    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    skipped = sum(getattr(times, name, 0.0) for name in ("guest", "guest_nice", "steal"))
    # On Windows interrupt and dpc time are parts of system time.
    skipped += sum(getattr(times, name, 0.0) for name in ("interrupt", "dpc"))
    return sum(times) - idle - skipped, getattr(times, "steal", 0.0)
