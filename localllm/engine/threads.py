"""How many threads to compute with: the physical cores that this process may use.

Two hyper-threads of one core share its vector units, so a thread a core is the fastest.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

from localllm import config

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


@cache
def default_threads() -> int:
    """Physical cores within this process's affinity and container quota, at least 1."""
    if sys.platform == "linux":
        cores = _linux_cores(sorted(os.sched_getaffinity(0)), _CPUS)
        return max(1, min(cores, _linux_quota(_CGROUP) or cores))
    if sys.platform == "darwin":
        # Performance cores only: efficiency cores hold the others back at every barrier.
        return _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or 1
    return max(1, (os.cpu_count() or 2) // 2)  # Windows: nothing in the stdlib tells cores


_FEW_CORES = 4


def yield_at_barriers() -> None:
    """On few cores, let a thread that waits for the others give its core away.

    ggml's threads meet at a barrier after each graph node, hundreds of times a token. GCC's
    OpenMP runtime spins there; with one other busy process on a small machine the spinner
    holds the very core that the thread it waits for needs, and generation becomes 3 to 10
    times slower (docs/configuration.md has figures). On many cores waking sleepers costs more
    than it saves, so they keep the default. GOMP_SPINCOUNT or OMP_WAIT_POLICY in the
    environment win. Must run before llama.cpp's library is loaded.
    """
    if default_threads() <= _FEW_CORES and "OMP_WAIT_POLICY" not in config.environment():
        config.set_environment_default("GOMP_SPINCOUNT", "0")


def _linux_cores(cpus: list[int], root: Path) -> int:
    """Distinct (package, core) pairs among `cpus`; each counts itself where sysfs is silent."""
    cores = set()
    for cpu in cpus:
        topology = root / f"cpu{cpu}" / "topology"
        try:
            package = (topology / "physical_package_id").read_text().strip()
            core = (topology / "core_id").read_text().strip()
        except OSError:
            package, core = "?", f"cpu{cpu}"
        cores.add((package, core))
    return len(cores)


def _linux_quota(root: Path) -> int | None:
    """Whole CPUs of the container's quota (cgroup v2, else v1), None without one."""
    try:
        quota, period = (root / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max", or -1
    return max(1, int(quota) // int(period))


def _sysctl(name: str) -> int:
    value = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    failed = ctypes.CDLL(None).sysctlbyname(
        name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return 0 if failed else value.value
