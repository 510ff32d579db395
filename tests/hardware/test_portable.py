"""What psutil tells on macOS and Windows, asked on whatever system runs the tests."""

from __future__ import annotations

import psutil

from localllm.hardware import portable, windows


def test_memory_is_the_machines() -> None:
    memory = portable.read_memory()
    assert memory.total_bytes == psutil.virtual_memory().total
    assert 0 < memory.available_bytes == memory.host_available_bytes <= memory.total_bytes
    assert memory.limit_bytes is None
    assert memory.usable_total_bytes == memory.total_bytes


def test_windows_counts() -> None:
    cpu = windows.read_cpu()
    assert cpu.logical_cores == psutil.cpu_count(logical=True)
    assert 1 <= cpu.usable_logical <= cpu.logical_cores
    assert 1 <= cpu.threads <= cpu.logical_cores
