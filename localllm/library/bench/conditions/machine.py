"""Which machine figures belong to, and the versions that made them."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from localllm.library.bench.record import Machine

if TYPE_CHECKING:
    from localllm.hardware import Hardware


def this_machine_record() -> Machine:
    """This machine as its figures are kept (0.1 s). See `machine_record`."""
    from localllm.placement.here import look

    return machine_record(look(), platform.node())


def machine_record(hardware: Hardware, host: str) -> Machine:
    """A machine's record; what its fingerprint is of: `hardware.fingerprint`."""
    from localllm.hardware.fingerprint import fingerprint, gpu_label

    cpu = hardware.cpu
    return Machine(
        fingerprint=fingerprint(hardware),
        host=host,
        system=hardware.os_name,
        kernel=hardware.kernel,
        cpu=cpu.model,
        n_cores=cpu.usable_physical or cpu.usable_logical,
        n_threads=cpu.usable_logical,
        memory_bytes=hardware.memory.usable_total_bytes,
        gpus=tuple(gpu_label(gpu) for gpu in hardware.usable_gpus),
        driver=hardware.nvml.driver_version,
    )


def versions() -> dict[str, str]:
    """What measured: localllm, llama.cpp (its commit), llama-cpp-python, python, and the
    NVIDIA driver where there is one."""
    from localllm import __version__
    from localllm.engine.build import build_info
    from localllm.placement.here import look

    build, driver = build_info(), look().nvml.driver_version
    found = {
        "localllm": __version__,
        "llama.cpp": build.commit,
        "llama-cpp-python": build.binding_version,
        "python": platform.python_version(),
    }
    return {**found, "nvidia-driver": driver} if driver else found
