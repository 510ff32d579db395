"""`detect` on this machine and on a tree of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from localllm.hardware import detect, disk_space
from tests.hardware.conftest import Plant


def test_this_machine() -> None:
    found = detect(disk_paths=[Path.cwd()])
    assert found.cpu.logical_cores >= found.cpu.usable_logical >= 1
    assert found.cpu.threads >= 1
    assert found.memory.total_bytes >= found.memory.available_bytes > 0
    assert found.os_name and found.kernel
    assert found.disks[0].free_bytes <= found.disks[0].total_bytes


def test_a_disk_for_a_path_that_does_not_exist_yet(tmp_path: Path) -> None:
    here, there = disk_space(tmp_path), disk_space(tmp_path / "a" / "b c" / "モデル")
    assert here is not None and there is not None
    assert there.total_bytes == here.total_bytes
    assert there.path == tmp_path / "a" / "b c" / "モデル"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_container_of_one_core_and_two_gib(plant: Plant) -> None:
    block = (
        "processor\t: {}\nmodel name\t: Test CPU\nphysical id\t: 0\ncore id\t: {}\nflags\t: avx2\n"
    )
    root = plant(
        {
            "proc/cpuinfo": "\n".join(block.format(i, i) for i in range(64)),
            "proc/meminfo": "MemTotal: 268435456 kB\nMemAvailable: 260000000 kB\n",
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 none rw\n",
            "sys/fs/cgroup/memory.max": f"{2 << 30}\n",
            "sys/fs/cgroup/memory.current": f"{512 << 20}\n",
            "sys/fs/cgroup/cpu.max": "100000 100000\n",
        }
    )
    found = detect(root=root)
    assert found.cpu.physical_cores == 64
    assert found.cpu.threads == 1
    assert found.memory.available_bytes == (2 << 30) - (512 << 20)
    assert found.memory.usable_total_bytes == 2 << 30


def test_importing_the_room_imports_nothing_heavy() -> None:
    program = (
        "import sys, localllm.hardware\n"
        "print(sorted({'pynvml', 'psutil', 'numpy', 'llama_cpp'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
