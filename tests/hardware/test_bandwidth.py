"""The measured memory bandwidth: honest buffers, bounded time. Never a timed assert on speed."""

from __future__ import annotations

from pathlib import Path

from localllm.hardware import measure_memory_bandwidth
from tests.hardware.conftest import Plant

MIB = 1 << 20


def test_buffers_lie_well_beyond_the_cache(plant: Plant) -> None:
    base = "sys/devices/system/cpu/cpu0/cache/index3"
    root = plant({f"{base}/level": "3", f"{base}/size": "96M", f"{base}/shared_cpu_list": "0-7"})
    found = measure_memory_bandwidth(0.02, threads=2, available_bytes=4096 * MIB, root=root)
    assert found is not None
    assert found.buffer_bytes == 4 * 96 * MIB
    assert found.beyond_cache
    assert found.threads == 2
    assert 10**8 < found.read_bytes_s < 10**13
    assert 0.02 <= found.measured_s < 5


def test_little_memory_means_small_buffers_and_says_so(tmp_path: Path) -> None:
    found = measure_memory_bandwidth(0.01, threads=2, available_bytes=64 * MIB, root=tmp_path)
    assert found is not None
    assert found.buffer_bytes == 16 * MIB
    assert not found.beyond_cache
