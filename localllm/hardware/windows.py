"""Windows: CPU and memory through psutil, the Win32 feature bits and the CPU's registry key.

Only what Windows tells for certain: the feature bits below are those that
IsProcessorFeaturePresent documents, so the list is shorter than the CPU's own.
"""

from __future__ import annotations

import platform
import sys

from localllm.hardware.machine import Cpu

# PF_* of winnt.h
FEATURE_BITS = {
    38: "SSE4.2", 39: "AVX", 40: "AVX2", 41: "AVX512", 19: "NEON", 43: "DOTPROD",
}  # fmt: skip


def read_cpu() -> Cpu:
    """The processor as this process may use it. Job-object quotas are not read."""
    import psutil

    logical = psutil.cpu_count(logical=True) or 1
    physical = psutil.cpu_count(logical=False)
    process = psutil.Process()
    usable = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else logical
    model, vendor = _registry_names()
    return Cpu(
        model=model or platform.processor() or "unknown",
        vendor=vendor or "unknown",
        architecture=platform.machine(),
        logical_cores=logical,
        physical_cores=physical,
        performance_cores=None,
        usable_logical=usable,
        # Windows numbers a core's threads next to one another, but which of them the mask
        # holds is not said: scaling keeps a full mask exact and a narrowed one fair.
        usable_physical=max(1, usable * physical // logical) if physical else None,
        quota_cores=None,
        quota_source=None,
        simd=_features(),
    )


def _features() -> tuple[str, ...]:
    if sys.platform != "win32":
        return ()
    import ctypes

    present = ctypes.windll.kernel32.IsProcessorFeaturePresent
    return tuple(name for bit, name in FEATURE_BITS.items() if present(bit))


def _registry_names() -> tuple[str | None, str | None]:
    """(ProcessorNameString, VendorIdentifier) of the first CPU."""
    if sys.platform != "win32":
        return None, None
    import winreg

    names: list[str | None] = []
    try:
        with winreg.OpenKey(
            winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        ) as key:
            for value in ("ProcessorNameString", "VendorIdentifier"):
                names.append(str(winreg.QueryValueEx(key, value)[0]).strip())
    except OSError:  # a value that this build of Windows does not have
        names += [None, None]
    return names[0], names[1]
