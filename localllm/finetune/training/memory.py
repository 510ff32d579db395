"""How much memory training takes at its highest: of the device that computes.

On the CPU that is this process's resident memory; on CUDA what torch's allocator has given out,
which it keeps count of; on MPS what Metal's driver has, looked at like the CPU's.
"""

from __future__ import annotations

import threading
from types import TracebackType

import torch

from localllm.hardware import resident_bytes

_INTERVAL_S = 0.02


class PeakMemory:
    """Watches the memory while the block runs, 50 times a second where nothing keeps count.

    `peak_bytes` is the highest seen since `reset`, `highest_bytes` since the beginning,
    `begin_bytes` what was there before.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self.begin_bytes = self._now()
        self.peak_bytes = self.highest_bytes = self.begin_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="localllm-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._device.type == "cuda":
            self.look()
        else:
            self._thread.join()

    def reset(self) -> None:
        """Begin anew with `peak_bytes`."""
        self.look()
        self.peak_bytes = self._now()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def look(self) -> None:
        """Bring both figures up to now."""
        if self._device.type == "cuda":
            seen = torch.cuda.max_memory_allocated(self._device)
        else:
            seen = self._now()
        self.peak_bytes = max(self.peak_bytes, seen)
        self.highest_bytes = max(self.highest_bytes, self.peak_bytes)

    def _now(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        if self._device.type == "mps":
            return torch.mps.driver_allocated_memory()
        return resident_bytes() or 0

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self.look()
