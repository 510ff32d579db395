"""What the system and the driver book on this process."""

from __future__ import annotations

import os
from typing import Any


def resident_bytes() -> int | None:
    """Main memory of this process that is in RAM now: its own, and the pages of mapped files
    that it has touched. None where the system does not tell."""
    import psutil

    try:
        return int(psutil.Process().memory_info().rss)
    except (psutil.Error, OSError):
        return None


def gpu_process_bytes(pid: int | None = None) -> dict[str, int]:
    """Video memory of a process (this one) by the UUID of each NVIDIA GPU it is on, the
    driver's own context included. {} without a driver, and where it does not tell: in a
    container the driver counts by the host's process numbers, on Windows it counts nothing."""
    import pynvml

    pid = os.getpid() if pid is None else pid
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    found: dict[str, int] = {}
    try:
        for index in range(_ask(pynvml.nvmlDeviceGetCount) or 0):
            handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
            uuid = _ask(pynvml.nvmlDeviceGetUUID, handle) if handle else None
            used = _used(handle, pid) if uuid else None
            if uuid and used is not None:
                found[uuid] = used
    finally:
        _ask(pynvml.nvmlShutdown)
    return found


def _used(handle: Any, pid: int) -> int | None:
    import pynvml

    processes = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    sizes = [p.usedGpuMemory for p in processes if p.pid == pid]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _ask(function: Any, *args: Any) -> Any:
    import pynvml

    try:
        return function(*args)
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError, UnicodeDecodeError):
        return None
