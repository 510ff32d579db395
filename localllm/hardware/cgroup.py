"""Linux control groups: the limits above this process, in v1, v2 and hybrid layouts.

A limit anywhere on the way up counts, so every level from the process's own group to the
mount is read and the smallest wins. Where a group lies in the file tree comes from
/proc/self/cgroup and /proc/self/mountinfo: inside a container the mounted root is often not
the hierarchy's root, and the two files together say which part is visible.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

# v1 writes "no limit" as PAGE_COUNTER_MAX rounded to pages, just under 2^63.
UNLIMITED_FROM = 1 << 60

Version = Literal[1, 2]


@dataclass(frozen=True)
class MemoryLevel:
    """One group's memory accounting in bytes. `reclaimable_bytes` is cache the kernel can drop."""

    source: str
    limit_bytes: int
    usage_bytes: int
    reclaimable_bytes: int

    @property
    def used_bytes(self) -> int:
        return max(0, self.usage_bytes - self.reclaimable_bytes)

    @property
    def room_bytes(self) -> int:
        return max(0, self.limit_bytes - self.used_bytes)


@dataclass(frozen=True)
class Quota:
    """A cpu quota in cores (1.5 is a core and a half) and the file that sets it."""

    cores: float
    source: str


def memory_levels(root: Path) -> tuple[MemoryLevel, ...]:
    """Every group above this process that limits memory, innermost first; () without limits."""
    readers = {1: _memory_v1, 2: _memory_v2}
    found = (readers[v](root, path) for v, path in _levels(root, "memory"))
    return tuple(level for level in found if level is not None)


def cpu_quota(root: Path) -> Quota | None:
    """The tightest cpu quota above this process, None without one."""
    readers = {1: _quota_v1, 2: _quota_v2}
    found = (readers[v](root, path) for v, path in _levels(root, "cpu"))
    return min((q for q in found if q is not None), key=lambda q: q.cores, default=None)


def quota_stops(root: Path) -> int:
    """How many periods a cpu quota above this process has stopped its group in, so far."""
    return sum(_stat(path / "cpu.stat").get("nr_throttled", 0) for _, path in _levels(root, "cpu"))


def swap_limit(root: Path) -> int | None:
    """How many bytes of swap the groups above allow, None without a limit."""
    limits: list[int] = []
    for version, path in _levels(root, "memory"):
        if version == 2:
            own = _limit(path / "memory.swap.max")
        else:  # v1 limits memory and swap together
            both, memory = (
                _limit(path / f"memory{kind}.limit_in_bytes") for kind in (".memsw", "")
            )
            own = max(0, both - memory) if both is not None and memory is not None else None
        if own is not None:
            limits.append(own)
    return min(limits, default=None)


def _memory_v2(root: Path, path: Path) -> MemoryLevel | None:
    # memory.high does not kill, but above it the kernel throttles the process to a crawl:
    # a model planned to lie above it would never finish loading.
    limits = [
        (limit, name)
        for name in ("memory.max", "memory.high")
        if (limit := _limit(path / name)) is not None
    ]
    if not limits:
        return None
    limit, name = min(limits)
    stat = _stat(path / "memory.stat")
    cache = sum(stat.get(k, 0) for k in ("inactive_file", "active_file", "slab_reclaimable"))
    usage = _number(path / "memory.current") or 0
    return MemoryLevel(_shown(root, path / name), limit, usage, cache)


def _memory_v1(root: Path, path: Path) -> MemoryLevel | None:
    stat = _stat(path / "memory.stat")
    name = "memory.limit_in_bytes"
    own = _limit(path / name)
    # The kernel's own minimum over the ancestors, also those a container cannot see.
    above = stat.get("hierarchical_memory_limit", UNLIMITED_FROM)
    if above < UNLIMITED_FROM and (own is None or above < own):
        own, name = above, "memory.stat"
    if own is None:
        return None
    cache = sum(stat.get(k, 0) for k in ("total_inactive_file", "total_active_file"))
    usage = _number(path / "memory.usage_in_bytes") or 0
    return MemoryLevel(_shown(root, path / name), own, usage, cache)


def _quota_v2(root: Path, path: Path) -> Quota | None:
    quota, _, period = (_text(path / "cpu.max") or "max").strip().partition(" ")
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return Quota(int(quota) / int(period), _shown(root, path / "cpu.max"))


def _quota_v1(root: Path, path: Path) -> Quota | None:
    quota = _number(path / "cpu.cfs_quota_us")  # -1 is no quota
    period = _number(path / "cpu.cfs_period_us")
    if quota is None or quota <= 0 or not period or period <= 0:
        return None
    return Quota(quota / period, _shown(root, path / "cpu.cfs_quota_us"))


# --- where the groups are --------------------------------------------------------------


@dataclass(frozen=True)
class _Mount:
    version: Version
    controllers: frozenset[str]
    root: str  # the part of the hierarchy that is visible at `point`
    point: str


def _levels(root: Path, controller: str) -> Iterator[tuple[Version, Path]]:
    """Directories from this process's group up to the mount, of every hierarchy that has it.

    Hybrid systems mount both versions, with the controller in one of them: both are walked,
    and the one without the controller simply has no such files.
    """
    mounts = _mounts(root) or _usual_mounts(root, controller)
    for version, group in _groups(root, controller):
        mounted = [m for m in mounts if m.version == version]
        fitting = [m for m in mounted if version == 2 or controller in m.controllers]
        if not fitting:
            continue
        mount = max(fitting, key=lambda m: (_below(group, m.root) is not None, len(m.root)))
        inside = _below(group, mount.root) or PurePosixPath()
        base = root / mount.point.lstrip("/")
        for part in (inside, *inside.parents):
            yield version, base / part


def _below(group: str, mount_root: str) -> PurePosixPath | None:
    """`group` relative to the mounted root; None where it lies outside of what is mounted."""
    if ".." in PurePosixPath(group).parts:  # moved out of its cgroup namespace
        return None
    try:
        return PurePosixPath(group).relative_to(mount_root)
    except ValueError:
        return None


def _groups(root: Path, controller: str) -> Iterator[tuple[Version, str]]:
    """This process's groups from /proc/self/cgroup: lines of `id:controllers:path`."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif controller in controllers.split(","):
            yield 1, path


def _mounts(root: Path) -> list[_Mount]:
    """The cgroup mounts of /proc/self/mountinfo (proc(5) describes its fields)."""
    mounts: list[_Mount] = []
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        left, separator, right = line.partition(" - ")
        fields, source = left.split(" "), right.split(" ")
        if not separator or len(fields) < 5 or source[0] not in ("cgroup", "cgroup2"):
            continue
        version: Version = 2 if source[0] == "cgroup2" else 1
        options = frozenset(source[-1].split(","))
        mounts.append(_Mount(version, options, _unescape(fields[3]), _unescape(fields[4])))
    return mounts


def _usual_mounts(root: Path, controller: str) -> list[_Mount]:
    """Where the groups are by convention, for a process that may not read its mountinfo."""
    if (root / "sys/fs/cgroup/cgroup.controllers").is_file():
        return [_Mount(2, frozenset(), "/", "/sys/fs/cgroup")]
    return [
        _Mount(1, frozenset({controller}), "/", f"/sys/fs/cgroup/{controller}"),
        _Mount(2, frozenset(), "/", "/sys/fs/cgroup/unified"),
    ]


def _unescape(field: str) -> str:
    """mountinfo writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)


# --- reading ---------------------------------------------------------------------------


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if re.fullmatch(r"-?\d{1,20}", text) else None


def _limit(path: Path) -> int | None:
    value = _number(path)  # "max" is no number
    return value if value is not None and 0 <= value < UNLIMITED_FROM else None


def _stat(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in (_text(path) or "").splitlines())
    return {p[0]: int(p[1]) for p in pairs if len(p) == 2 and p[1].isdecimal()}


def _shown(root: Path, path: Path) -> str:
    """The path as the process itself would name it, without an injected root."""
    return "/" + path.relative_to(root).as_posix()
