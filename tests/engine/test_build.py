"""What the build says of itself, and how many threads to use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localllm.engine.build import build_info, devices
from localllm.engine.threads import _linux_cores, _linux_quota, default_threads


def test_build_info_names_the_cpu_backend_and_its_features() -> None:
    info = build_info()
    assert info.binding_version.startswith("0.3.")
    assert "CPU" in info.backends
    assert info.supports_mmap
    for feature in info.cpu_features:
        assert f"{feature} = 1" in info.system_info
    assert info.gpu_devices == tuple(d for d in info.devices if d.type in ("gpu", "igpu"))
    assert info.supports_gpu_offload == bool(info.gpu_devices) or info.supports_gpu_offload


def test_the_cpu_device_reports_the_memory_of_the_machine() -> None:
    cpu = next(device for device in devices() if device.type == "cpu")
    assert not cpu.offloads
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert cpu.memory_total_bytes == pytest.approx(total, rel=0.01)
    assert 0 < cpu.memory_free_bytes <= cpu.memory_total_bytes


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_hyperthreads_of_a_core_count_once(tmp_path: Path) -> None:
    for cpu, core in enumerate([0, 1, 2, 3, 0, 1, 2, 3]):
        write(tmp_path / f"cpu{cpu}/topology/core_id", f"{core}\n")
        write(tmp_path / f"cpu{cpu}/topology/physical_package_id", f"{cpu % 2 * 0}\n")
    assert _linux_cores(list(range(8)), tmp_path) == 4
    assert _linux_cores([0, 4], tmp_path) == 1  # affinity to one core
    assert _linux_cores([0, 1, 9], tmp_path) == 3  # no sysfs for cpu9


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "junk"}, None),
        ({}, None),
    ],
)
def test_container_quota(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    assert _linux_quota(tmp_path) == expected


def test_default_threads_are_within_the_machine() -> None:
    assert 1 <= default_threads() <= (os.cpu_count() or 1)
