"""How long a member may take until its first word."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Patience:
    """`ended` holds once the time is up. One member after the other has its own."""

    def __init__(self, give_up: Callable[[], None]) -> None:
        """`give_up` is called from another thread."""
        self._give_up = give_up
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()  # a word and the end of the time come from two threads
        self.ended = False

    def begin(self, limit_s: float | None) -> None:
        """None waits for as long as it takes."""
        self.ended = False
        if limit_s is None:
            return
        self._timer = threading.Timer(limit_s, self._too_late)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """The first word has come, or none will."""
        with self._lock:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _too_late(self) -> None:
        with self._lock:
            if self._timer is None:
                return
            self._timer, self.ended = None, True
        self._give_up()
