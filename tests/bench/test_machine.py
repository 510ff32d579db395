"""The machine's record and its fingerprint."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from localllm.hardware import Cpu, Gpu, Hardware, Memory, NvmlStatus
from localllm.library.bench.conditions.machine import machine_record, this_machine_record, versions

GIB = 1 << 30
MIB = 1 << 20

CPU = Cpu(
    model="AMD Ryzen 9 7950X", vendor="AuthenticAMD", architecture="x86_64", logical_cores=32,
    physical_cores=16, performance_cores=None, usable_logical=32, usable_physical=16,
    quota_cores=None, quota_source=None, simd=("AVX2",),
)  # fmt: skip
MEMORY = Memory(
    total_bytes=64 * GIB - 900 * MIB, host_available_bytes=50 * GIB, available_bytes=50 * GIB,
    limit_bytes=None, limit_used_bytes=None, limit_source=None, swap_total_bytes=0,
    swap_free_bytes=0,
)  # fmt: skip
GPU = Gpu("nvml", "gpu", "nvidia", 0, "NVIDIA GeForce RTX 4090", uuid="GPU-1",
          total_bytes=24564 * MIB, free_bytes=23 * GIB)  # fmt: skip
MACHINE = Hardware(
    system="Linux", os_name="Debian 12", kernel="6.1.0-9", cpu=CPU, memory=MEMORY, numa_nodes=1,
    disks=(), gpus=(GPU,), nvml=NvmlStatus("ok", "", driver_version="570.86"), findings=(),
)  # fmt: skip


def fingerprint(**changes: Any) -> str:
    for name in ("cpu", "memory"):
        if name in changes:
            changes[name] = dataclasses.replace(getattr(MACHINE, name), **changes[name])
    return machine_record(dataclasses.replace(MACHINE, **changes), "here").fingerprint


def gpu(**changes: Any) -> Gpu:
    return dataclasses.replace(GPU, **changes)


def test_the_record_says_what_there_is() -> None:
    found = machine_record(MACHINE, "here")
    assert (found.host, found.system, found.kernel) == ("here", "Debian 12", "6.1.0-9")
    assert (found.cpu, found.n_cores, found.n_threads) == ("AMD Ryzen 9 7950X", 16, 32)
    assert found.memory_bytes == 64 * GIB - 900 * MIB
    assert found.gpus == ("NVIDIA GeForce RTX 4090 24 GiB",)
    assert found.driver == "570.86"
    assert len(found.fingerprint) == 16 and int(found.fingerprint, 16) >= 0


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": "6.12.1"},
        {"os_name": "Debian 13"},
        {"nvml": NvmlStatus("ok", "", driver_version="580.1")},
        {"memory": {"available_bytes": 3 * GIB, "host_available_bytes": 3 * GIB}},
        {"memory": {"total_bytes": 64 * GIB - 1100 * MIB}},  # another kernel keeps more of it
        {"memory": {"swap_total_bytes": 8 * GIB}},
        {"gpus": (gpu(free_bytes=GIB, used_bytes=23 * GIB, temperature_c=80, power_w=300.0),)},
        {"gpus": (gpu(total_bytes=24217 * MIB, uuid="GPU-2", pci_bus_id="0000:02:00.0"),)},
    ],
)
def test_the_same_machine_later(changes: dict[str, Any]) -> None:
    assert fingerprint(**changes) == fingerprint()
    renamed = machine_record(MACHINE, "renamed")
    assert renamed.fingerprint == fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"system": "Windows"},
        {"cpu": {"model": "AMD Ryzen 9 5950X"}},
        {"cpu": {"usable_physical": 8, "usable_logical": 16}},
        {"cpu": {"usable_logical": 16}},
        {"cpu": {"quota_cores": 4.0}},
        {"memory": {"total_bytes": 32 * GIB - 500 * MIB}},
        {"memory": {"total_bytes": 96 * GIB - 900 * MIB}},
        {"memory": {"limit_bytes": 16 * GIB}},
        {"gpus": ()},
        {"gpus": (GPU, gpu(index=1, uuid="GPU-2"))},
        {"gpus": (gpu(name="NVIDIA GeForce RTX 5090"),)},
        {"gpus": (gpu(total_bytes=48 * GIB),)},
        {"gpus": (gpu(hidden_by="CUDA_VISIBLE_DEVICES"),)},
    ],
)
def test_another_machine(changes: dict[str, Any]) -> None:
    assert fingerprint(**changes) != fingerprint()


def test_gpus_in_another_order_are_the_same_machine() -> None:
    a, b = gpu(name="A"), gpu(name="B", index=1)
    assert fingerprint(gpus=(a, b)) == fingerprint(gpus=(b, a))


def test_here_twice() -> None:
    first, second = this_machine_record(), this_machine_record()
    assert first.fingerprint == second.fingerprint
    assert first.memory_bytes > 0 and first.n_cores >= 1


def test_versions_of_everything_that_measures() -> None:
    from importlib.metadata import version

    found = versions()
    assert {"localllm", "llama.cpp", "llama-cpp-python", "python"} <= set(found)
    assert found["llama-cpp-python"] == version("llama-cpp-python")
    assert all(found.values())
