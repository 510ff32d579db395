"""`detect`: one look at the whole machine."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.hardware import drm, linux, macos, portable, windows
from localllm.hardware.catalogue import candidates
from localllm.hardware.machine import Cpu, Disk, Finding, Gpu, Hardware, Memory, NvmlStatus
from localllm.hardware.nvml import NvmlReading, read_nvml
from localllm.hardware.visibility import apply_visible_devices

NOT_ASKED = NvmlReading(NvmlStatus("not_asked", "NVIDIA has no driver for this system"))


@dataclass(frozen=True)
class _Base:
    """What each system tells in its own way."""

    os_name: str
    cpu: Cpu
    memory: Memory
    numa_nodes: int | None
    gpus: tuple[Gpu, ...]


def detect(
    *,
    root: Path = Path("/"),
    disk_paths: Sequence[Path] = (),
    cuda_visible_devices: str | None = None,
    cuda_device_order: str | None = None,
    timeout_s: float = 10.0,
) -> Hardware:
    """What this machine has and what this process may use of it.

    `root` is where /proc, /sys and /etc are (Linux; tests give a tree of their own).
    `disk_paths` are looked up through their nearest existing parent. The two CUDA values are
    the environment's, None when unset. Asking the NVIDIA driver takes at most `timeout_s`; all
    else is immediate. Never raises for what is missing or broken: that becomes a finding.
    """
    system = platform.system()
    base = _base(system, root, timeout_s)
    nvml = NOT_ASKED if system == "Darwin" else read_nvml(timeout_s)
    visible = apply_visible_devices(nvml.gpus, cuda_visible_devices, cuda_device_order)
    others = [g for g in base.gpus if not (g.vendor == "nvidia" and nvml.gpus)]
    findings = [*nvml.findings, *visible.findings]
    if system == "Linux" and nvml.status.state == "no_library" and drm.nvidia_on_bus(root):
        findings.append(drm.without_driver())
    return Hardware(
        system=system,
        os_name=base.os_name,
        kernel=platform.release(),
        cpu=base.cpu,
        memory=base.memory,
        numa_nodes=base.numa_nodes,
        disks=tuple(disk for path in disk_paths if (disk := disk_space(path)) is not None),
        gpus=tuple(_catalogued(g) for g in (*visible.gpus, *others)),
        nvml=nvml.status,
        findings=tuple[Finding, ...](findings),
    )


def disk_space(path: Path) -> Disk | None:
    """Total and free bytes (for this user) where `path` is or would be created; None if the
    file system cannot be asked."""
    for candidate in (path.absolute(), *path.absolute().parents):
        try:
            usage = shutil.disk_usage(candidate)
        except OSError:
            continue
        return Disk(path, usage.total, usage.free)
    return None


def _base(system: str, root: Path, timeout_s: float) -> _Base:
    if system == "Linux":
        return _linux(root)
    return _darwin(timeout_s) if system == "Darwin" else _windows()


def _linux(root: Path) -> _Base:
    return _Base(
        os_name=linux.os_name(root),
        cpu=linux.read_cpu(root, linux.affinity() if root == Path("/") else None),
        memory=linux.read_memory(root),
        numa_nodes=linux.numa_nodes(root),
        gpus=drm.read_drm(root),
    )


def _darwin(timeout_s: float) -> _Base:
    values = macos.read_sysctl(timeout_s)
    gpu = macos.unified_gpu(values)
    return _Base(
        os_name=f"macOS {platform.mac_ver()[0]}",
        cpu=macos.cpu_from_sysctl(values),
        memory=portable.read_memory(),
        numa_nodes=None,
        gpus=(gpu,) if gpu else (),
    )


def _windows() -> _Base:
    release = platform.win32_ver()[1] if sys.platform == "win32" else platform.version()
    return _Base(
        os_name=f"{platform.system()} {release}",
        cpu=windows.read_cpu(),
        memory=portable.read_memory(),
        numa_nodes=None,
        gpus=(),
    )


def _catalogued(gpu: Gpu) -> Gpu:
    """`gpu` with what only the catalogue knows: bandwidth, and that memory is shared.

    Where a name stands for several sizes, what they have in common still holds.
    """
    models = candidates(gpu.name, gpu.total_bytes)
    if not models or gpu.kind == "mig_instance":
        return gpu
    speeds = {m.bandwidth_bytes_s for m in models}
    if gpu.bandwidth_bytes_s is None and len(speeds) == 1:
        gpu = replace(gpu, bandwidth_bytes_s=speeds.pop(), bandwidth_basis="catalogue")
    return replace(gpu, unified=gpu.unified or all(m.unified for m in models))
