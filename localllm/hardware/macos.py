"""macOS: CPU features and the unified-memory GPU, all from sysctl."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping

from localllm.hardware.machine import Cpu, Gpu

GIB = 1 << 30
ARM_FEATURES = {
    "hw.optional.neon": "NEON",
    "hw.optional.AdvSIMD": "NEON",
    "hw.optional.arm.FEAT_FP16": "FP16_VA",
    "hw.optional.arm.FEAT_DotProd": "DOTPROD",
    "hw.optional.arm.FEAT_I8MM": "MATMUL_INT8",
    "hw.optional.arm.FEAT_BF16": "BF16",
    "hw.optional.arm.FEAT_SME": "SME",
}
X86_FEATURES = {
    "SSE4.2": "SSE4.2",
    "AVX1.0": "AVX",
    "AVX2": "AVX2",
    "F16C": "F16C",
    "FMA": "FMA",
    "BMI2": "BMI2",
    "AVX512F": "AVX512",
}


def read_sysctl(timeout_s: float) -> dict[str, str]:
    """All values below `hw`, `machdep.cpu` and `iogpu`; {} when sysctl does not answer in time."""
    command = ["/usr/sbin/sysctl", "hw", "machdep.cpu", "iogpu"]
    try:
        # iogpu does not exist on Intel Macs: sysctl then prints the rest and exits 1.
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_sysctl(done.stdout)


def parse_sysctl(text: str) -> dict[str, str]:
    """Lines of `name: value`."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return {name: value.strip() for name, separator, value in pairs if separator}


def cpu_from_sysctl(values: Mapping[str, str]) -> Cpu:
    """The processor. macOS has no affinity masks and no quotas: all of it is usable."""
    logical = _count(values, "hw.logicalcpu") or 1
    physical = _count(values, "hw.physicalcpu")
    fast = _count(values, "hw.perflevel0.physicalcpu")
    brand = values.get("machdep.cpu.brand_string", "unknown")
    vendor = "Apple" if brand.startswith("Apple") else values.get("machdep.cpu.vendor", "unknown")
    return Cpu(
        model=brand,
        vendor=vendor,
        architecture=platform.machine(),
        logical_cores=logical,
        physical_cores=physical,
        performance_cores=fast if fast and fast != physical else None,
        usable_logical=logical,
        usable_physical=physical,
        quota_cores=None,
        quota_source=None,
        simd=_simd(values),
    )


def unified_gpu(values: Mapping[str, str]) -> Gpu | None:
    """The Apple silicon GPU, None on an Intel Mac (its GPUs come from the ggml backends).

    `total_bytes` is what Metal lets one process keep resident (recommendedMaxWorkingSetSize):
    two thirds of the memory up to 32 GiB, three quarters above, unless `iogpu.wired_limit_mb`
    says otherwise. llama.cpp prints the true value; its device replaces this one in `match`.
    """
    brand = values.get("machdep.cpu.brand_string", "")
    memory = _count(values, "hw.memsize")
    if not brand.startswith("Apple") or not memory:
        return None
    wired = (_count(values, "iogpu.wired_limit_mb") or 0) << 20
    return Gpu(
        source="apple",
        kind="gpu",
        vendor="apple",
        index=0,
        name=brand,
        total_bytes=wired or metal_working_set_bytes(memory),
        unified=True,
    )


def metal_working_set_bytes(memory_bytes: int) -> int:
    """Metal's default limit for one process. 16 GiB -> 10922 MiB, 64 GiB -> 48 GiB, as seen."""
    if memory_bytes <= 32 * GIB:
        return memory_bytes * 2 // 3
    return memory_bytes * 3 // 4


def _simd(values: Mapping[str, str]) -> tuple[str, ...]:
    names = [name for key, name in ARM_FEATURES.items() if values.get(key) == "1"]
    flags = " ".join(
        values.get(f"machdep.cpu.{key}", "") for key in ("features", "leaf7_features")
    ).split()
    names += [name for flag, name in X86_FEATURES.items() if flag in flags]
    return tuple(dict.fromkeys(names))


def _count(values: Mapping[str, str], key: str) -> int | None:
    text = values.get(key, "")
    return int(text) if text.isdecimal() else None
