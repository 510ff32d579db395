"""ggml's names for GPUs ("CUDA0") and the drivers' knowledge of them."""

from __future__ import annotations

from functools import cache

from localllm.hardware import Gpu


@cache
def gpus_by_name() -> dict[str, Gpu]:
    """Every GPU that this build of llama.cpp offers and a driver knows, by ggml's name.

    Looked at once a process: which is which does not change, and asking takes 0.1 s.
    """
    from localllm.engine import build
    from localllm.hardware import BackendDevice, match_build
    from localllm.placement.here import look

    offered = [
        BackendDevice(
            name=device.name,
            description=device.description,
            kind="igpu" if device.type == "igpu" else "gpu",
            total_bytes=device.memory_total_bytes,
            free_bytes=device.memory_free_bytes,
        )
        for device in build.devices()
        if device.offloads
    ]
    hardware = look()
    match = match_build(hardware.gpus, offered, backends=build.backends(), system=hardware.system)
    return {device.name: usable.gpu for usable in match.usable for device in usable.devices}
