"""Whether saving a sequence pays: what it takes, against what computing it again would take."""

from __future__ import annotations

_SMOOTH = 0.1


class Pace:
    """Seconds, as lately measured. Before anything is, saving pays.

    `worth` is the share of what a sequence took to compute that keeping it may take: most are
    never asked for again.
    """

    def __init__(self, worth: float) -> None:
        self._worth = worth
        self._s_per_token = 0.0
        self._s_per_byte = 0.0

    def computed(self, n_tokens: int, seconds: float) -> None:
        """A step of so many tokens."""
        self._s_per_token = _blend(self._s_per_token, seconds / n_tokens)

    def saved(self, n_bytes: int, seconds: float) -> None:
        if n_bytes:
            self._s_per_byte = _blend(self._s_per_byte, seconds / n_bytes)

    def pays(self, n_bytes: int, n_tokens: int) -> bool:
        if not self._s_per_token or not self._s_per_byte:
            return True
        return n_bytes * self._s_per_byte <= self._worth * n_tokens * self._s_per_token


def _blend(old: float, new: float) -> float:
    return old + _SMOOTH * (new - old) if old else new
