"""Linux: CPU, memory and NUMA from /proc and /sys below an injectable root."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from localllm.hardware import cgroup
from localllm.hardware.machine import Cpu, Memory

# What llama.cpp's CPU backend has kernels for, as /proc/cpuinfo spells it -> as ggml does.
X86_SIMD = {
    "sse4_2": "SSE4.2", "avx": "AVX", "avx_vnni": "AVX_VNNI", "avx2": "AVX2", "f16c": "F16C",
    "fma": "FMA", "bmi2": "BMI2", "avx512f": "AVX512", "avx512_vbmi": "AVX512_VBMI",
    "avx512vbmi": "AVX512_VBMI", "avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16",
    "amx_tile": "AMX_TILE", "amx_int8": "AMX_INT8", "amx_bf16": "AMX_BF16",
}  # fmt: skip
ARM_SIMD = {
    "asimd": "NEON", "neon": "NEON", "asimdhp": "FP16_VA", "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8", "bf16": "BF16", "sve": "SVE", "sve2": "SVE2", "sme": "SME",
}  # fmt: skip
ARM_VENDORS = {
    0x41: "ARM", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon",
    0x4E: "NVIDIA", 0x51: "Qualcomm", 0x61: "Apple", 0xC0: "Ampere",
}  # fmt: skip


def read_cpu(root: Path, affinity: frozenset[int] | None) -> Cpu:
    """The processor below `root`. `affinity`: logical CPUs this process may run on, None for all.

    Core counts come from the topology files of /sys where there are any, else from
    /proc/cpuinfo (Arm's has no core ids, many containers hide /sys).
    """
    blocks = _cpuinfo(root)
    first = blocks[0] if blocks else {}
    merged = {k: v for block in reversed(blocks) for k, v in block.items()}
    present = _online(root, blocks)
    allowed = present & affinity if affinity else present
    cores = _cores(root, blocks, present)
    fast = _performance_cpus(root, present)
    quota = cgroup.cpu_quota(root)
    return Cpu(
        model=_model(root, merged),
        vendor=_vendor(first),
        architecture=platform.machine(),
        logical_cores=len(present),
        physical_cores=len(set(cores.values())) if cores else None,
        performance_cores=len({cores.get(c, (str(c),)) for c in fast & allowed}) if fast else None,
        usable_logical=max(1, len(allowed)),
        usable_physical=len({cores[c] for c in allowed if c in cores}) or None,
        quota_cores=quota.cores if quota else None,
        quota_source=quota.source if quota else None,
        simd=_simd(merged),
    )


def affinity() -> frozenset[int] | None:
    """The logical CPUs this process may run on, None where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return None


def read_memory(root: Path) -> Memory:
    """Host memory from /proc/meminfo, cut to the control groups' limits."""
    info = _meminfo(root)
    total = info.get("MemTotal", 0)
    # Kernels before 3.14 have no MemAvailable; this is what `free` did then.
    free = info.get("MemFree", 0) + info.get("Cached", 0) + info.get("Buffers", 0)
    host_available = info.get("MemAvailable", free)
    limits = [g for g in cgroup.memory_levels(root) if g.limit_bytes < total]
    tightest = min(limits, key=lambda g: g.limit_bytes, default=None)
    swap = cgroup.swap_limit(root)
    swap_total, swap_free = info.get("SwapTotal", 0), info.get("SwapFree", 0)
    return Memory(
        total_bytes=total,
        host_available_bytes=host_available,
        available_bytes=min([host_available, *(g.room_bytes for g in limits)]),
        limit_bytes=tightest.limit_bytes if tightest else None,
        limit_used_bytes=tightest.used_bytes if tightest else None,
        limit_source=tightest.source if tightest else None,
        swap_total_bytes=swap_total if swap is None else min(swap_total, swap),
        swap_free_bytes=swap_free if swap is None else min(swap_free, swap),
    )


def numa_nodes(root: Path) -> int | None:
    """How many NUMA nodes have memory or CPUs online; None when /sys does not say."""
    text = _read(root / "sys/devices/system/node/online")
    return len(parse_cpu_list(text)) or None


def last_level_cache_bytes(root: Path) -> int | None:
    """The sum of all last-level caches (each counted once for the CPUs that share it)."""
    sizes: dict[str, int] = {}
    deepest = 0
    for index in sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cache/index[0-9]*")):
        level = _read(index / "level").strip()
        size = re.fullmatch(r"(\d+)([KM]?)", _read(index / "size").strip())
        if not level.isdecimal() or not size or int(level) < deepest:
            continue
        if int(level) > deepest:
            deepest, sizes = int(level), {}
        unit = {"": 1, "K": 1 << 10, "M": 1 << 20}[size[2]]
        sizes[_read(index / "shared_cpu_list").strip()] = int(size[1]) * unit
    return sum(sizes.values()) or None


def os_name(root: Path) -> str:
    """PRETTY_NAME of os-release, "Linux" without one."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        found = re.search(r'^PRETTY_NAME="?([^"\n]*)"?$', _read(root / name), re.MULTILINE)
        if found:
            return found[1]
    return "Linux"


def parse_cpu_list(text: str) -> frozenset[int]:
    """The kernel's list form: `0-3,8,10-11`. Anything else in it is left out."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if found:
            cpus.update(range(int(found[1]), int(found[2] or found[1]) + 1))
    return frozenset(cpus)


# --- /proc/cpuinfo and the topology ------------------------------------------------------


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """The blocks of /proc/cpuinfo. Old Arm kernels end with a block about the board."""
    blocks = []
    for block in _read(root / "proc/cpuinfo").split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        if fields := {key.strip(): value.strip() for key, _, value in pairs}:
            blocks.append(fields)
    return blocks


def _online(root: Path, blocks: list[dict[str, str]]) -> frozenset[int]:
    listed = parse_cpu_list(_read(root / "sys/devices/system/cpu/online"))
    known = frozenset(int(b["processor"]) for b in blocks if b.get("processor", "").isdecimal())
    return listed or known or frozenset(range(os.cpu_count() or 1))


def _cores(
    root: Path, blocks: list[dict[str, str]], present: frozenset[int]
) -> dict[int, tuple[str, ...]]:
    """Each logical CPU's physical core, named by what identifies it; {} when unknown."""
    cores: dict[int, tuple[str, ...]] = {}
    for cpu in present:
        siblings = _read(
            root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        ).strip()
        if siblings:
            cores[cpu] = (siblings,)
    if len(cores) == len(present):
        return cores
    return {
        int(block["processor"]): (block.get("physical id", "0"), block["core id"])
        for block in blocks
        if "core id" in block and block.get("processor", "").isdecimal()
    }


def _performance_cpus(root: Path, present: frozenset[int]) -> frozenset[int]:
    """The CPUs of the fast kind, empty where all are alike.

    Intel hybrids list theirs under /sys/devices/cpu_core; Arm gives each CPU a capacity (the
    fastest has 1024). Middle cores within a quarter of the fastest count as fast: llama.cpp
    gains from them.
    """
    intel = parse_cpu_list(_read(root / "sys/devices/cpu_core/cpus"))
    if intel and intel < present:
        return intel
    capacity = {
        cpu: int(text)
        for cpu in present
        if (
            text := _read(root / f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity").strip()
        ).isdecimal()
    }
    fast = frozenset(c for c, value in capacity.items() if value * 4 >= max(capacity.values()) * 3)
    return fast if fast < frozenset(capacity) else frozenset()


def _model(root: Path, info: dict[str, str]) -> str:
    for key in ("model name", "Model", "cpu model", "Hardware", "cpu"):
        if info.get(key):
            return info[key]
    board = _read(root / "sys/firmware/devicetree/base/model").strip("\0\n ")
    return board or platform.processor() or platform.machine() or "unknown"


def _vendor(info: dict[str, str]) -> str:
    implementer = info.get("CPU implementer", "")
    if re.fullmatch(r"0x[0-9a-f]{1,4}", implementer):
        return ARM_VENDORS.get(int(implementer, 16), implementer)
    return info.get("vendor_id", "unknown")


def _simd(info: dict[str, str]) -> tuple[str, ...]:
    flags = (info.get("flags") or info.get("Features") or "").split()
    table = X86_SIMD if "flags" in info else ARM_SIMD
    return tuple(dict.fromkeys(name for flag, name in table.items() if flag in flags))


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes. Its "kB" are KiB."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    return {name: int(value) * 1024 for name, value in found}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
