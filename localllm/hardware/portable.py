"""What psutil tells alike on macOS and Windows."""

from __future__ import annotations

from localllm.hardware.machine import Memory


def read_memory() -> Memory:
    """Main memory and swap. psutil's `available` counts cache that can be dropped as free."""
    import psutil

    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return Memory(
        total_bytes=memory.total,
        host_available_bytes=memory.available,
        available_bytes=memory.available,
        limit_bytes=None,
        limit_used_bytes=None,
        limit_source=None,
        swap_total_bytes=swap.total,
        swap_free_bytes=swap.free,
    )
