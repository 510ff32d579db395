"""What a machine has, as frozen values: raw bytes, counts, watts. Nothing here reads anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Vendor = Literal["nvidia", "amd", "intel", "apple", "other"]
GpuSource = Literal["nvml", "drm", "apple"]
GpuKind = Literal["gpu", "mig_parent", "mig_instance"]
BandwidthBasis = Literal["driver", "catalogue"]
NvmlState = Literal[
    "ok",
    "not_asked",  # macOS: no NVIDIA driver exists for it
    "no_library",
    "driver_not_loaded",
    "version_mismatch",
    "no_permission",
    "timed_out",
    "failed",
]
FindingKind = Literal[
    "nvml_driver_not_loaded",
    "nvml_version_mismatch",
    "nvml_no_permission",
    "nvml_timed_out",
    "nvml_failed",
    "nvidia_without_driver",
    "gpu_lost",
    "gpu_unreadable",
    "gpu_memory_unknown",
    "mig_without_instances",
    "visible_devices_invalid",
    "visible_devices_order",
]


@dataclass(frozen=True)
class Finding:
    """Something about this machine that a user should know, with what to do about it."""

    kind: FindingKind
    subject: str  # "NVIDIA driver", "GPU 1", "CUDA_VISIBLE_DEVICES"
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Cpu:
    """The processor, and how much of it this process may use.

    Counts that the system does not tell are None. `usable_*` follow the affinity mask (which
    includes a container's cpuset); `quota_cores` is the tightest cgroup cpu quota above this
    process, in cores. `performance_cores` counts the usable cores of the fast kind and is set
    only where the cores are of two kinds.
    """

    model: str
    vendor: str
    architecture: str
    logical_cores: int
    physical_cores: int | None
    performance_cores: int | None
    usable_logical: int
    usable_physical: int | None
    quota_cores: float | None
    quota_source: str | None
    simd: tuple[str, ...]

    @property
    def threads(self) -> int:
        """The thread count that token generation wants here: one for each usable fast core.

        Hyper-threads share the load units that decoding is bound by, and a slow core holds
        up the rest at every barrier. A quota is rounded down: a thread beyond it makes the
        kernel stop all of them for the rest of each period.
        """
        cores = self.usable_physical or self.usable_logical
        if self.performance_cores:
            cores = min(cores, self.performance_cores)
        if self.quota_cores is not None:
            cores = min(cores, int(self.quota_cores))
        return max(1, cores)


@dataclass(frozen=True)
class Memory:
    """Main memory as this process may use it.

    `total_bytes` and `host_available_bytes` are the host's. `limit_bytes` is the smallest
    limit of the control groups above this process (None: none below `total_bytes`),
    `limit_used_bytes` what is used against it without file cache that can be reclaimed.
    `available_bytes` is what can still be taken, within every limit. Swap is within limits.
    """

    total_bytes: int
    host_available_bytes: int
    available_bytes: int
    limit_bytes: int | None
    limit_used_bytes: int | None
    limit_source: str | None
    swap_total_bytes: int
    swap_free_bytes: int

    @property
    def usable_total_bytes(self) -> int:
        """All memory this process could ever have: the host's, or the limit where smaller."""
        return self.total_bytes if self.limit_bytes is None else self.limit_bytes


@dataclass(frozen=True)
class Disk:
    """Space on the file system that holds (or would hold) `path`."""

    path: Path
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Gpu:
    """One device that could hold layers. What the driver does not tell is None.

    `index` is the source's own: the NVML index, the drm card number. A MIG instance is a
    device of its own memory with `kind` "mig_instance"; its parent then cannot be used whole.
    `unified` devices take their memory from the host's. `shared_bytes` is host memory that a
    device may map besides its own (an amdgpu's GTT). `hidden_by` names the setting that keeps
    this process from using the device.
    """

    source: GpuSource
    kind: GpuKind
    vendor: Vendor
    index: int
    name: str
    uuid: str | None = None
    pci_bus_id: str | None = None
    parent_index: int | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    shared_bytes: int | None = None
    unified: bool = False
    bandwidth_bytes_s: int | None = None
    bandwidth_basis: BandwidthBasis | None = None
    compute_capability: str | None = None
    bus_width_bits: int | None = None
    memory_clock_hz: int | None = None
    power_limit_w: float | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    mig_enabled: bool | None = None
    ecc_enabled: bool | None = None
    display_active: bool | None = None
    hidden_by: str | None = None

    @property
    def usable(self) -> bool:
        """Whether this process could put layers on it."""
        return self.kind != "mig_parent" and self.hidden_by is None


@dataclass(frozen=True)
class NvmlStatus:
    """How the NVIDIA driver answered. Versions are None unless `state` is "ok"."""

    state: NvmlState
    message: str
    driver_version: str | None = None
    cuda_version: str | None = None


@dataclass(frozen=True)
class Hardware:
    """Everything `detect` found. `system` is platform.system(): Linux, Darwin, Windows."""

    system: str
    os_name: str
    kernel: str
    cpu: Cpu
    memory: Memory
    numa_nodes: int | None
    disks: tuple[Disk, ...]
    gpus: tuple[Gpu, ...]
    nvml: NvmlStatus
    findings: tuple[Finding, ...]

    @property
    def usable_gpus(self) -> tuple[Gpu, ...]:
        return tuple(g for g in self.gpus if g.usable)


def canonical_pci_id(text: str) -> str | None:
    """`00000000:0A:00.0` (NVML), `0000:0a:00.0` (sysfs, ggml) or `0a:00.0` -> `0000:0a:00.0`."""
    found = re.fullmatch(
        r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", text.strip().lower()
    )
    if not found:
        return None
    domain = int(found[1] or "0", 16)
    return f"{domain:04x}:{found[2]}:{found[3]}.{found[4]}"
