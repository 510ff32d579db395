"""Which machine this is, as far as speed depends on it."""

from __future__ import annotations

import hashlib
import json

from localllm.hardware.machine import Hardware

_GIB = 1 << 30


def fingerprint(hardware: Hardware) -> str:
    """Sixteen hex digits that stay over reboots, updates and whatever else runs, and change
    with the processor, the cores this process may use, the memory's size and the GPUs.

    Memory counts to the nearest power of sqrt(2), since kernels reserve a little more or less
    of it. What another host of the same kind measures can be compared, so its name is not in.
    """
    cpu = hardware.cpu
    facts = {
        "cpu": " ".join(cpu.model.split()),
        "architecture": cpu.architecture,
        "cores": [cpu.usable_logical, cpu.usable_physical, cpu.quota_cores],
        "memory": _size_class(hardware.memory.usable_total_bytes),
        "gpus": sorted(
            f"{gpu.vendor} {gpu.name} {_size_class(gpu.total_bytes or 0)}"
            for gpu in hardware.usable_gpus
        ),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _size_class(size_bytes: int) -> int:
    """Half powers of two: 15.4 and 15.6 GiB are one size, 16 and 24 are two."""
    import math

    return round(2 * math.log2(size_bytes / _GIB)) if size_bytes > 0 else 0
