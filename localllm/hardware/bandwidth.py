"""How fast this machine's main memory can be read, measured."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from localllm.hardware.linux import last_level_cache_bytes

MIB = 1 << 20
BLOCK_BYTES = 4 * MIB
MAX_BUFFERS_BYTES = 2048 * MIB
UNKNOWN_CACHE_BYTES = 64 * MIB


@dataclass(frozen=True)
class MemoryBandwidth:
    """A measurement: bytes read a second by `threads` threads over `buffer_bytes` in all.

    `beyond_cache` is False when memory was too short for buffers well beyond the last-level
    cache: the figure is then the cache's as much as the memory's.
    """

    read_bytes_s: int
    threads: int
    buffer_bytes: int
    measured_s: float
    beyond_cache: bool


def measure_memory_bandwidth(
    seconds: float = 0.3,
    *,
    threads: int,
    available_bytes: int,
    root: Path = Path("/"),
) -> MemoryBandwidth | None:
    """Read buffers of four times the last-level cache with `threads` threads for `seconds`.

    Reading is what token generation does; copying or writing would show another figure. Each
    thread sweeps a buffer of its own with numpy's OR reduction, which runs without the GIL
    and faster than memory. Takes `seconds` and about as long to fill the buffers, which stay
    within a quarter of `available_bytes`. Another busy process makes the result lower. None
    when the memory for the buffers is refused.
    """
    wanted = 4 * (last_level_cache_bytes(root) or UNKNOWN_CACHE_BYTES)
    budget = min(MAX_BUFFERS_BYTES, available_bytes // 4)
    total = max(min(max(wanted, 256 * MIB), budget), BLOCK_BYTES * threads)
    try:
        readers = [_Reader(total // threads) for _ in range(threads)]
    except MemoryError:  # an address-space limit
        return None
    start_line = threading.Barrier(threads + 1)
    workers = [
        threading.Thread(target=r.run, args=(start_line, seconds), daemon=True) for r in readers
    ]
    for worker in workers:
        worker.start()
    start_line.wait()
    for worker in workers:
        worker.join()
    return MemoryBandwidth(
        read_bytes_s=round(sum(r.read_bytes / r.elapsed_s for r in readers)),
        threads=threads,
        buffer_bytes=sum(r.buffer_bytes for r in readers),
        measured_s=max(r.elapsed_s for r in readers),
        beyond_cache=total >= wanted,
    )


class _Reader:
    """One thread's buffer and what it has read of it."""

    def __init__(self, size_bytes: int) -> None:
        import numpy as np

        self.buffer_bytes = max(BLOCK_BYTES, size_bytes // BLOCK_BYTES * BLOCK_BYTES)
        self.read_bytes = 0
        self.elapsed_s = 0.0
        self._words = np.empty(self.buffer_bytes // 8, dtype=np.uint64)  # no pages yet

    def run(self, start_line: threading.Barrier, seconds: float) -> None:
        import numpy as np

        # Filled by the thread that reads it: the pages then lie on that thread's NUMA node.
        # Not zeros, which the system may back with one shared page.
        self._words.fill(0x0101010101010101)
        blocks = np.split(self._words, self.buffer_bytes // BLOCK_BYTES)
        start_line.wait()
        started = time.perf_counter()
        while self.elapsed_s < seconds:
            for block in blocks:
                np.bitwise_or.reduce(block)
                self.read_bytes += BLOCK_BYTES
                self.elapsed_s = time.perf_counter() - started
                if self.elapsed_s >= seconds:
                    break
