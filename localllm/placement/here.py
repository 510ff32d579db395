"""This machine as llama.cpp can use it: drivers, build and memory put together."""

from __future__ import annotations

from localllm import config
from localllm.engine import build
from localllm.hardware import Hardware, detect, measure_memory_bandwidth
from localllm.placement.target import Target, target_here


def this_machine(hardware: Hardware | None = None, *, bandwidth: bool = False) -> Target:
    """The devices and memory of this machine, now.

    `hardware` is what was detected before, else it is looked at (under 0.1 s; the first call
    also loads llama.cpp's library, which wakes the GPU drivers). With `bandwidth` main memory
    is measured too (0.6 s), which speed estimates of what runs on the CPU need.
    """
    hardware = hardware or look()
    target = target_here(hardware, build.devices(), build.backends())
    return with_bandwidth(target) if bandwidth else target


def look() -> Hardware:
    """`hardware.detect` with the environment's word on which NVIDIA GPUs are visible."""
    environment = config.environment()
    return detect(
        cuda_visible_devices=environment.get("CUDA_VISIBLE_DEVICES"),
        cuda_device_order=environment.get("CUDA_DEVICE_ORDER"),
    )


def with_bandwidth(target: Target) -> Target:
    """The same with main memory's read bandwidth measured (0.6 s) where it is not known."""
    if target.host_bandwidth_bytes_s is not None:
        return target
    measured = measure_memory_bandwidth(
        threads=target.host_threads, available_bytes=target.host_available_bytes
    )
    return target.with_bandwidth(measured.read_bytes_s if measured else None)
