"""NVIDIA GPUs through NVML: every question may fail, and no failure hides another GPU.

The driver can hang (a GPU that fell off the bus, a module being unloaded), so all questions
are asked in a thread that is given up after a time-out; what it had read by then counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from localllm.hardware.machine import (
    Finding,
    FindingKind,
    Gpu,
    NvmlState,
    NvmlStatus,
    canonical_pci_id,
)

T = TypeVar("T")

NO_LIBRARY = NvmlStatus("no_library", "no NVIDIA driver is installed")
MHZ = 1_000_000


@dataclass(frozen=True)
class NvmlReading:
    status: NvmlStatus
    gpus: tuple[Gpu, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass
class _Notes:
    """What the reading thread has found so far. Only it writes; a reader takes copies."""

    status: NvmlStatus | None = None
    gpus: list[Gpu] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class _Unreadable(Exception):
    """A GPU that answers nothing more: lost, needs a reset, or refuses the basic questions."""

    def __init__(self, lost: bool, reason: str) -> None:
        super().__init__(reason)
        self.lost = lost


def read_nvml(timeout_s: float) -> NvmlReading:
    """All NVIDIA GPUs and MIG instances, or a status that says why there are none.

    Never raises for what a driver does. Takes at most about `timeout_s` seconds.
    """
    notes = _Notes()
    thread = threading.Thread(target=_read_all, args=(notes,), name="nvml", daemon=True)
    thread.start()
    thread.join(timeout_s)
    gpus, findings, status = tuple(notes.gpus), tuple(notes.findings), notes.status
    if thread.is_alive():
        message = f"the NVIDIA driver did not answer within {timeout_s:g} seconds"
        hint = "look for NVRM and Xid lines in `sudo dmesg`; restarting the machine usually helps"
        late = Finding("nvml_timed_out", "NVIDIA driver", message, hint)
        return NvmlReading(NvmlStatus("timed_out", message), gpus, (*findings, late))
    # A thread that ended without a status died of a bug, which must not read as "no GPU".
    return NvmlReading(status or NvmlStatus("failed", "reading NVML failed"), gpus, findings)


def _read_all(notes: _Notes) -> None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        notes.status, finding = _refusal(error)
        notes.findings += [finding] if finding else []
        return
    try:
        count = pynvml.nvmlDeviceGetCount()
        for index in range(count):
            _read_device(index, notes)
        version = _system(pynvml.nvmlSystemGetCudaDriverVersion_v2)
        notes.status = NvmlStatus(
            "ok",
            "the NVIDIA driver answers" if count else "the NVIDIA driver answers: no GPU",
            driver_version=_system(pynvml.nvmlSystemGetDriverVersion),
            cuda_version=f"{version // 1000}.{version % 1000 // 10}" if version else None,
        )
    except pynvml.NVMLError as error:
        notes.status, finding = _refusal(error)
        notes.findings += [finding] if finding else []
    finally:
        _system(pynvml.nvmlShutdown)


def _refusal(error: Any) -> tuple[NvmlStatus, Finding | None]:
    """What NVML's answer to nvmlInit means, and what mends it."""
    import pynvml

    known: dict[int, tuple[NvmlState, FindingKind, str, str]] = {
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
            "driver_not_loaded",
            "nvml_driver_not_loaded",
            "the NVIDIA driver is installed but not loaded",
            "sudo modprobe nvidia",
        ),
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "version_mismatch",
            "nvml_version_mismatch",
            "the loaded NVIDIA kernel module and the installed driver are of different versions",
            "restart the machine, or in a container use the host driver's version",
        ),
        pynvml.NVML_ERROR_NO_PERMISSION: (
            "no_permission",
            "nvml_no_permission",
            "this user may not open the NVIDIA device",
            "ls -l /dev/nvidia*; add yourself to the group that owns it",
        ),
    }
    if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return NO_LIBRARY, None
    state, kind, message, hint = known.get(
        error.value, ("failed", "nvml_failed", f"the NVIDIA driver fails: {error}", "nvidia-smi")
    )
    return NvmlStatus(state, message), Finding(kind, "NVIDIA driver", message, hint)


def _read_device(index: int, notes: _Notes) -> None:
    """Append GPU `index` (and its MIG instances), or the finding that says why not."""
    import pynvml

    subject = f"GPU {index}"
    try:
        handle = _must(pynvml.nvmlDeviceGetHandleByIndex, index)
        gpu = _gpu(index, handle)
        notes.gpus.append(gpu)
        if gpu.mig_enabled:
            instances = _mig_instances(gpu, handle)
            notes.gpus.extend(instances)
            if not instances:
                message = f"{gpu.name} is in MIG mode and has no instances: nothing can run on it"
                hint = f"sudo nvidia-smi mig -cgi 0 -C -i {index}"
                notes.findings.append(Finding("mig_without_instances", subject, message, hint))
        elif gpu.total_bytes is None:
            message = f"{gpu.name} does not report its memory (memory shared with the host?)"
            notes.findings.append(Finding("gpu_memory_unknown", subject, message))
    except _Unreadable as error:
        kind: FindingKind = "gpu_lost" if error.lost else "gpu_unreadable"
        what = "is lost: it fell off the bus or needs a reset" if error.lost else "cannot be read"
        hint = "look for Xid lines in `sudo dmesg`, then restart the machine"
        notes.findings.append(Finding(kind, subject, f"{subject} {what} ({error})", hint))


def _gpu(index: int, handle: Any) -> Gpu:
    import pynvml

    mig = _mode(_ask(pynvml.nvmlDeviceGetMigMode, handle))
    bus_width = _ask(pynvml.nvmlDeviceGetMemoryBusWidth, handle)
    clock_mhz = _ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_MEM)
    # Two transfers a clock: NVML counts every memory kind, GDDR6X and HBM too, so that this
    # gives the published figure (RTX 4090: 10501 MHz x 2 x 384 bit = 1008 GB/s).
    bandwidth = clock_mhz * MHZ * 2 * bus_width // 8 if clock_mhz and bus_width else None
    capability = _ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    limit = _ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    power = _ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    display = _ask(pynvml.nvmlDeviceGetDisplayActive, handle)
    total, free, used = _memory(handle)
    return Gpu(
        source="nvml",
        kind="mig_parent" if mig else "gpu",
        vendor="nvidia",
        index=index,
        name=_must(pynvml.nvmlDeviceGetName, handle),
        uuid=_ask(pynvml.nvmlDeviceGetUUID, handle),
        pci_bus_id=_ask(_pci_bus_id, handle),
        total_bytes=total,
        free_bytes=free,
        used_bytes=used,
        bandwidth_bytes_s=bandwidth,
        bandwidth_basis="driver" if bandwidth else None,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        bus_width_bits=bus_width,
        memory_clock_hz=clock_mhz * MHZ if clock_mhz else None,
        power_limit_w=limit / 1000 if limit is not None else None,
        power_w=power / 1000 if power is not None else None,
        temperature_c=_ask(pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
        or _ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        pcie_generation=_ask(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        pcie_width=_ask(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        mig_enabled=mig,
        ecc_enabled=_mode(_ask(pynvml.nvmlDeviceGetEccMode, handle)),
        display_active=bool(display) if display is not None else None,
    )


def _mode(current_and_pending: list[int] | None) -> bool | None:
    """What is on now; the pending state comes after the next reset."""
    return bool(current_and_pending[0]) if current_and_pending else None


def _pci_bus_id(handle: Any) -> str | None:
    import pynvml

    return canonical_pci_id(str(pynvml.nvmlDeviceGetPciInfo(handle).busId))


def _memory(handle: Any) -> tuple[int | None, int | None, int | None]:
    """(total, free, used). The second version keeps the driver's reserve out of `used`."""
    import pynvml

    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    memory = memory or _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return (memory.total, memory.free, memory.used) if memory else (None, None, None)


def _mig_instances(parent: Gpu, handle: Any) -> list[Gpu]:
    """The MIG devices of a GPU. Slots without an instance answer NOT_FOUND."""
    import pynvml

    instances: list[Gpu] = []
    for slot in range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)
        if instance is None:
            continue
        total, free, used = _memory(instance)
        bandwidth = None
        if parent.bandwidth_bytes_s and parent.total_bytes and total:
            # A memory slice brings its own share of the memory channels (MIG user guide).
            bandwidth = parent.bandwidth_bytes_s * total // parent.total_bytes
        instances.append(
            Gpu(
                source="nvml",
                kind="mig_instance",
                vendor="nvidia",
                index=slot,
                parent_index=parent.index,
                name=_ask(pynvml.nvmlDeviceGetName, instance) or f"{parent.name} MIG {slot}",
                uuid=_ask(pynvml.nvmlDeviceGetUUID, instance),
                pci_bus_id=parent.pci_bus_id,
                total_bytes=total,
                free_bytes=free,
                used_bytes=used,
                bandwidth_bytes_s=bandwidth,
                bandwidth_basis="driver" if bandwidth else None,
                compute_capability=parent.compute_capability,
                mig_enabled=True,
                ecc_enabled=parent.ecc_enabled,
            )
        )
    return instances


def _system(function: Callable[[], T]) -> T | None:
    """Ask the driver as a whole; None where it does not answer."""
    import pynvml

    try:
        return function()
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError, UnicodeDecodeError):
        return None


def _must(function: Callable[..., T], *args: Any) -> T:
    """Ask what a GPU has to answer to be of any use."""
    import pynvml

    try:
        return function(*args)
    except pynvml.NVMLError as error:
        raise _Unreadable(_is_lost(error), str(error)) from error
    except UnicodeDecodeError as error:
        raise _Unreadable(False, "its name is not text") from error


def _ask(function: Callable[..., T], *args: Any) -> T | None:
    """Ask what a GPU may leave unanswered (its kind, the driver's age): None then."""
    import pynvml

    try:
        return function(*args)
    except pynvml.NVMLError as error:
        if _is_lost(error):
            raise _Unreadable(True, str(error)) from error
        return None
    except (pynvml.NVMLLibraryMismatchError, UnicodeDecodeError):
        return None


def _is_lost(error: Any) -> bool:
    import pynvml

    return error.value in (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
