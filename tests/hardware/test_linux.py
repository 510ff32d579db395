"""CPUs, memory and caches as /proc and /sys show them on real machines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from localllm.hardware.linux import (
    last_level_cache_bytes,
    numa_nodes,
    os_name,
    parse_cpu_list,
    read_cpu,
    read_memory,
)
from tests.hardware.conftest import Plant

GIB = 1 << 30


def x86_block(
    cpu: int, package: int, core: int, flags: str = "fpu sse4_2 avx avx2 fma f16c"
) -> str:
    return (
        f"processor\t: {cpu}\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\n"
        "model name\t: AMD Ryzen 9 7950X 16-Core Processor\n"
        f"physical id\t: {package}\nsiblings\t: 4\ncore id\t\t: {core}\ncpu cores\t: 2\n"
        f"flags\t\t: {flags} avx512f avx512_vnni avx512_bf16 bmi2 avx512vbmi\n"
    )


def test_two_sockets_with_hyperthreads_from_cpuinfo(plant: Plant) -> None:
    blocks = [x86_block(i, package=i // 4, core=i % 2) for i in range(8)]
    root = plant({"proc/cpuinfo": "\n".join(blocks)})
    cpu = read_cpu(root, affinity=None)
    assert (cpu.model, cpu.vendor) == ("AMD Ryzen 9 7950X 16-Core Processor", "AuthenticAMD")
    assert (cpu.logical_cores, cpu.physical_cores) == (8, 4)
    assert cpu.threads == 4
    assert cpu.performance_cores is None
    assert {"AVX2", "FMA", "AVX512", "AVX512_VNNI", "AVX512_BF16", "AVX512_VBMI"} <= set(cpu.simd)
    assert "AMX_INT8" not in cpu.simd


def test_affinity_counts_the_physical_cores_it_covers(plant: Plant) -> None:
    root = plant({"proc/cpuinfo": "\n".join(x86_block(i, 0, i % 4) for i in range(8))})
    cpu = read_cpu(root, affinity=frozenset({0, 4, 1}))  # both threads of core 0, one of core 1
    assert (cpu.usable_logical, cpu.usable_physical) == (3, 2)
    assert cpu.threads == 2


def test_topology_files_beat_cpuinfo(plant: Plant) -> None:
    files = {"proc/cpuinfo": "\n".join(x86_block(i, 0, 0) for i in range(4))}
    files["sys/devices/system/cpu/online"] = "0-3\n"
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        topology = f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        files[topology] = siblings + "\n"
    assert read_cpu(plant(files), None).physical_cores == 2


def test_a_quota_rounds_the_threads_down(plant: Plant) -> None:
    root = plant(
        {
            "proc/cpuinfo": "\n".join(x86_block(i, 0, i) for i in range(8)),
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 none rw\n",
            "sys/fs/cgroup/cpu.max": "250000 100000\n",
        }
    )
    cpu = read_cpu(root, None)
    assert cpu.quota_cores == 2.5
    assert cpu.threads == 2
    (root / "sys/fs/cgroup/cpu.max").write_text("50000 100000\n")
    assert read_cpu(root, None).threads == 1


def test_intel_hybrid_counts_its_performance_cores(plant: Plant) -> None:
    files = {"proc/cpuinfo": "\n".join(x86_block(i, 0, i) for i in range(6))}
    files["sys/devices/cpu_core/cpus"] = "0-3\n"
    files["sys/devices/cpu_atom/cpus"] = "4-5\n"
    for cpu in range(6):
        siblings = f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" if cpu < 4 else str(cpu)
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = siblings
    cpu_found = read_cpu(plant(files), None)
    assert (cpu_found.physical_cores, cpu_found.performance_cores) == (4, 2)
    assert cpu_found.threads == 2


def test_arm_big_little_and_features(plant: Plant) -> None:
    block = (
        "processor\t: {}\nBogoMIPS\t: 48.00\n"
        "Features\t: fp asimd aes crc32 atomics asimdhp asimddp sve i8mm bf16\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\n"
    )
    files = {
        "proc/cpuinfo": "\n".join(block.format(i) for i in range(8)),
        "sys/devices/system/cpu/online": "0-7",
        "sys/firmware/devicetree/base/model": "Radxa Orion O6\0",
    }
    for cpu, capacity in enumerate((280, 280, 280, 280, 905, 905, 1024, 1024)):
        files[f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity"] = str(capacity)
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = str(cpu)
    cpu_found = read_cpu(plant(files), None)
    assert (cpu_found.model, cpu_found.vendor) == ("Radxa Orion O6", "ARM")
    assert (cpu_found.physical_cores, cpu_found.performance_cores) == (8, 4)
    assert set(cpu_found.simd) == {"NEON", "FP16_VA", "DOTPROD", "SVE", "MATMUL_INT8", "BF16"}


def test_an_empty_proc_still_gives_a_cpu(tmp_path: Path) -> None:
    cpu = read_cpu(tmp_path, None)
    assert cpu.logical_cores >= 1
    assert cpu.threads >= 1
    assert cpu.physical_cores is None
    assert cpu.simd == ()


def test_memory_of_an_old_kernel_without_memavailable(plant: Plant) -> None:
    root = plant(
        {"proc/meminfo": "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 300 kB\n"}
    )
    assert read_memory(root).available_bytes == 420 * 1024


def test_caches_shared_by_several_cpus_count_once(plant: Plant) -> None:
    files = {}
    for cpu in range(8):
        base = f"sys/devices/system/cpu/cpu{cpu}/cache"
        for index, (level, size, shared) in enumerate(
            (("1", "32K", str(cpu)), ("2", "1024K", str(cpu)), ("3", "32M", f"{cpu // 4 * 4}-x"))
        ):
            files[f"{base}/index{index}/level"] = level + "\n"
            files[f"{base}/index{index}/size"] = size + "\n"
            files[f"{base}/index{index}/shared_cpu_list"] = shared + "\n"
    assert last_level_cache_bytes(plant(files)) == 2 * 32 * (1 << 20)


def test_last_level_cache_unknown(tmp_path: Path) -> None:
    assert last_level_cache_bytes(tmp_path) is None


def test_numa_nodes_and_os_name(plant: Plant) -> None:
    root = plant(
        {
            "sys/devices/system/node/online": "0-1,3\n",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        }
    )
    assert numa_nodes(root) == 3
    assert os_name(root) == "Debian GNU/Linux 12 (bookworm)"


def test_numa_and_os_name_unknown(tmp_path: Path) -> None:
    assert numa_nodes(tmp_path) is None
    assert os_name(tmp_path) == "Linux"


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}),
        ("5", {5}),
        ("", set()),
        ("a-b,2", {2}),
        ("3-1", set()),
    ],
)
def test_cpu_lists(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.skipif(sys.platform != "linux", reason="reads this machine's own /proc")
def test_this_machine_agrees_with_psutil() -> None:
    import psutil

    cpu = read_cpu(Path("/"), None)
    assert cpu.logical_cores == psutil.cpu_count(logical=True)
    if cpu.physical_cores and psutil.cpu_count(logical=False):
        assert cpu.physical_cores == psutil.cpu_count(logical=False)
    memory = read_memory(Path("/"))
    assert memory.total_bytes == psutil.virtual_memory().total
    assert 0 < memory.available_bytes <= memory.usable_total_bytes
