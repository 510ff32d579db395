"""The machine that a plan is for: this one as llama.cpp can use it, or one on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from localllm.engine import rpc
from localllm.engine.build import Device as BuildDevice
from localllm.hardware import (
    BackendDevice,
    BuildMatch,
    Device,
    Gpu,
    GpuModel,
    Hardware,
    UnusedGpu,
    match_build,
)
from localllm.hardware.machine import Vendor
from localllm.hardware.speed import DecodeKind

MIB = 1024 * 1024

# What a GPU backend allocates beside llama.cpp's buffers: ggml-cuda's pools for dequantized
# and converted operands, cuBLAS workspaces, kernels' own scratch.
GPU_HEADROOM_BYTES = 256 * MIB

_KINDS: dict[Vendor, DecodeKind] = {"nvidia": "cuda", "apple": "metal"}


@dataclass(frozen=True)
class TargetGpu:
    """A GPU that layers may go to. `ggml_name` is None for one on paper.

    `free_bytes` is what a process finds free, `headroom_bytes` of it are left alone.
    `bandwidth_bytes_s` is the published peak, None where unknown. `shares_host_memory`: its
    bytes are the host's.
    """

    name: str
    description: str
    total_bytes: int
    free_bytes: int
    headroom_bytes: int
    bandwidth_bytes_s: int | None
    kind: DecodeKind
    shares_host_memory: bool
    ggml_name: str | None = None

    def as_device(self) -> Device:
        return Device(
            name=self.name,
            free_bytes=self.free_bytes,
            reserve_bytes=self.headroom_bytes,
            bandwidth_bytes_s=self.bandwidth_bytes_s,
            shares_host_memory=self.shares_host_memory,
        )


@dataclass(frozen=True)
class Target:
    """Devices in llama.cpp's order and the host's memory.

    `here`: the devices are this machine's own, so llama.cpp can be asked what it would
    allocate. `host_available_bytes` can be taken now, `host_total_bytes` is all there is
    (within container limits). `host_bandwidth_bytes_s` is measured, None if it was not.
    `unused` are GPUs of this machine that its build of llama.cpp cannot use.
    """

    gpus: tuple[TargetGpu, ...]
    host_available_bytes: int
    host_total_bytes: int
    host_bandwidth_bytes_s: int | None
    host_threads: int
    here: bool
    unused: tuple[UnusedGpu, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(gpu.as_device() for gpu in self.gpus)

    def with_bandwidth(self, bytes_s: int | None) -> Target:
        """The same with the host's memory bandwidth known."""
        return replace(self, host_bandwidth_bytes_s=bytes_s)


def target_here(
    hardware: Hardware, devices: Sequence[BuildDevice], backends: Sequence[str] = ()
) -> Target:
    """This machine: `devices` and `backends` are what the build offers (`engine.build_info`).

    llama.cpp takes every GPU, and integrated ones only where there is no other.
    """
    offered = [d for d in devices if d.type == "gpu"] or [d for d in devices if d.type == "igpu"]
    match = match_build(
        hardware.gpus,
        [_backend_device(d) for d in offered],
        backends=backends,
        system=hardware.system,
    )
    return Target(
        gpus=tuple(_gpu_here(d, _known(d, match)) for d in offered),
        host_available_bytes=hardware.memory.available_bytes,
        host_total_bytes=hardware.memory.usable_total_bytes,
        host_bandwidth_bytes_s=None,
        host_threads=hardware.cpu.threads,
        here=True,
        unused=match.unused,
    )


def target_on_paper(
    hardware: Hardware,
    models: Sequence[tuple[GpuModel, int]] = (),
    vram_bytes: Sequence[int] = (),
) -> Target:
    """Other GPUs in this machine: catalogue models with their counts, or bare memory sizes.

    The host stays as it is, its whole memory taken as free.
    """
    gpus = [_gpu_on_paper(model, i, count) for model, count in models for i in range(count)]
    gpus += [_bare_gpu(size, i, len(vram_bytes)) for i, size in enumerate(vram_bytes)]
    return Target(
        gpus=tuple(gpus),
        host_available_bytes=hardware.memory.usable_total_bytes,
        host_total_bytes=hardware.memory.usable_total_bytes,
        host_bandwidth_bytes_s=None,
        host_threads=hardware.cpu.threads,
        here=False,
    )


def _backend_device(device: BuildDevice) -> BackendDevice:
    return BackendDevice(
        name=device.name,
        description=device.description,
        kind="igpu" if device.type == "igpu" else "gpu",
        total_bytes=device.memory_total_bytes,
        free_bytes=device.memory_free_bytes,
    )


def _known(device: BuildDevice, match: BuildMatch) -> Gpu | None:
    """What the drivers tell of this ggml device, if they know it."""
    for usable in match.usable:
        if any(d.name == device.name for d in usable.devices):
            return usable.gpu
    return None


def _gpu_here(device: BuildDevice, gpu: Gpu | None) -> TargetGpu:
    # A backend's own figure is the one its allocator lives by: it comes after the context
    # that the process needs anyway, and is the working set's limit on Apple silicon.
    address = rpc.address_of(device.name)
    return TargetGpu(
        name=device.name if address is None else f"{device.name}[{address}]",
        description=device.description,
        total_bytes=device.memory_total_bytes,
        free_bytes=device.memory_free_bytes,
        headroom_bytes=GPU_HEADROOM_BYTES,
        bandwidth_bytes_s=gpu.bandwidth_bytes_s if gpu else None,
        kind=_kind(device.backend),
        shares_host_memory=device.type == "igpu" or bool(gpu and gpu.unified),
        ggml_name=device.name,
    )


def _kind(backend: str) -> DecodeKind:
    if backend.upper() == "CUDA":
        return "cuda"
    return "metal" if backend.upper() in ("METAL", "MTL") else "gpu"


def _gpu_on_paper(model: GpuModel, i: int, count: int) -> TargetGpu:
    return TargetGpu(
        name=model.name if count == 1 else f"{model.name} #{i + 1}",
        description=model.name,
        total_bytes=model.driver_total_bytes,
        free_bytes=model.usable_bytes,
        headroom_bytes=GPU_HEADROOM_BYTES,
        bandwidth_bytes_s=model.bandwidth_bytes_s,
        kind=_KINDS.get(model.vendor, "gpu"),
        shares_host_memory=model.unified,
    )


def _bare_gpu(size: int, i: int, count: int) -> TargetGpu:
    """A card of so many bytes of memory, of which nothing else is known."""
    name = "GPU" if count == 1 else f"GPU #{i + 1}"
    card = GpuModel(name, "other", size, 0, unified=False, ecc=False)
    return TargetGpu(
        name=name,
        description=name,
        total_bytes=size,
        free_bytes=card.usable_bytes,
        headroom_bytes=GPU_HEADROOM_BYTES,
        bandwidth_bytes_s=None,
        kind="gpu",
        shares_host_memory=False,
    )
