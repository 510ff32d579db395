"""How much memory training takes at its highest."""

from __future__ import annotations

import threading
from types import TracebackType

from localllm.hardware import resident_bytes

_INTERVAL_S = 0.02


class PeakMemory:
    """Watches this process's resident memory while the block runs, 50 times a second.

    `peak_bytes` is the highest seen since `reset`, `highest_bytes` since the beginning,
    `begin_bytes` what was there before.
    """

    def __init__(self) -> None:
        self.begin_bytes = resident_bytes() or 0
        self.peak_bytes = self.highest_bytes = self.begin_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="localllm-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def reset(self) -> None:
        self._look()
        self.peak_bytes = resident_bytes() or 0

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, resident_bytes() or 0)
        self.highest_bytes = max(self.highest_bytes, self.peak_bytes)

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._look()
