"""Endpoints that failed of late, which are asked after the others for a while.

Without it every request waits once more for a server that hangs. How long one rests doubles with
each failure in a row; then it is asked again, and an answer forgets it all (a circuit breaker).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from localllm.errors import LocalLLMError, SourceFailed
from localllm.library.answering import NotInTime

_FIRST_S, _MOST_S = 15.0, 300.0


class Resting:
    """Of one router; asked from any thread. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}  # in a row
        self._until: dict[str, float] = {}

    def failed(self, name: str, error: LocalLLMError) -> None:
        """Only what another request would meet too counts: no answer, a refusal, a server's own
        error; not a prompt that was too long for it."""
        if not isinstance(error, (SourceFailed, NotInTime)):
            return
        with self._lock:
            now = self._clock()
            if self._until.get(name, now) > now:
                return  # others that were asked at the same time
            n = self._failures[name] = self._failures.get(name, 0) + 1
            self._until[name] = now + min(_MOST_S, _FIRST_S * 2 ** (n - 1))

    def answered(self, name: str) -> None:
        with self._lock:
            self._failures.pop(name, None)
            self._until.pop(name, None)

    def rest_s(self, name: str) -> float:
        """Seconds that it rests still, 0 where it does not."""
        with self._lock:
            return max(0.0, self._until.get(name, 0.0) - self._clock())

    def last(self, names: Sequence[str]) -> tuple[str, ...]:
        """`names` with those that rest behind the others."""
        return tuple(sorted(names, key=lambda name: self.rest_s(name) > 0))
