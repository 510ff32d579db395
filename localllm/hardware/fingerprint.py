"""Which machine this is, as far as speed depends on it."""

from __future__ import annotations

import hashlib
import json

from localllm.hardware.machine import Gpu, Hardware

GIB = 1 << 30


def fingerprint(hardware: Hardware) -> str:
    """Sixteen hex digits, of what makes figures comparable: processor, cores that may be used,
    size of memory, GPUs with theirs, the system's name; not of the host's name, the kernel's or
    the driver's version, nor of what is free.
    """
    cpu, memory = hardware.cpu, hardware.memory.usable_total_bytes
    telling = [
        hardware.system, cpu.architecture, cpu.model, cpu.usable_physical or cpu.usable_logical,
        cpu.usable_logical, cpu.quota_cores, _memory_class(memory),
        sorted(gpu_label(gpu) for gpu in hardware.usable_gpus),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(telling).encode()).hexdigest()[:16]


def gpu_label(gpu: Gpu) -> str:
    """Name and memory, in whole GiB: what a driver reserves differs by its version."""
    size = f" {round(gpu.total_bytes / GIB)} GiB" if gpu.total_bytes else ""
    return gpu.name + size


def _memory_class(size: int) -> int:
    """The size as sold, in MiB: rounded up to a sixteenth of the next power of two. What the
    firmware and the kernel keep for themselves is less than that, and changes between kernels."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step // (1 << 20)
