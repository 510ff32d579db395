"""Ctrl-C while training: noticed between two packs, so that no step is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType


class StopFlag:
    """While the block runs, the first Ctrl-C sets `is_set`; a second one interrupts at once."""

    def __init__(self) -> None:
        self.is_set = False
        self._before: Callable[[int, FrameType | None], object] | int | None = None
        self._active = False

    def __enter__(self) -> StopFlag:
        on_main = threading.current_thread() is threading.main_thread()
        if on_main and callable(signal.getsignal(signal.SIGINT)):
            self._before = signal.signal(signal.SIGINT, self._seen)
            self._active = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._before)

    def _seen(self, number: int, frame: FrameType | None) -> None:
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True
