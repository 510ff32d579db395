"""This machine and this build of llama.cpp, looked at together."""

from __future__ import annotations

from dataclasses import dataclass

from localllm import config
from localllm.engine.build import BuildInfo, build_info
from localllm.hardware import (
    BackendDevice,
    BuildMatch,
    Finding,
    Hardware,
    MemoryBandwidth,
    detect,
    match_build,
    measure_memory_bandwidth,
)


@dataclass(frozen=True)
class Machine:
    """What there is, what the build can use of it, and what does not add up."""

    hardware: Hardware
    build: BuildInfo
    match: BuildMatch
    memory_bandwidth: MemoryBandwidth | None  # measured now, None where not asked for

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.hardware.findings


def look(settings: config.Settings, *, bandwidth: bool = False) -> Machine:
    """Detect the hardware and ask the build what it can use.

    `bandwidth` measures main memory's read bandwidth too, about half a second. Raises
    EngineError where llama.cpp's library cannot be loaded.
    """
    env = config.environment()
    hardware = detect(
        disk_paths=(settings.home,),
        cuda_visible_devices=env.get("CUDA_VISIBLE_DEVICES"),
        cuda_device_order=env.get("CUDA_DEVICE_ORDER"),
    )
    build = build_info()
    devices = [
        BackendDevice(
            name=d.name,
            description=d.description,
            kind="igpu" if d.type == "igpu" else "gpu",
            total_bytes=d.memory_total_bytes,
            free_bytes=d.memory_free_bytes,
        )
        for d in build.gpu_devices
    ]
    match = match_build(hardware.gpus, devices, backends=build.backends, system=hardware.system)
    measured = _measured(hardware) if bandwidth else None
    return Machine(hardware, build, match, measured)


def _measured(hardware: Hardware) -> MemoryBandwidth | None:
    return measure_memory_bandwidth(
        threads=hardware.cpu.threads, available_bytes=hardware.memory.available_bytes
    )
