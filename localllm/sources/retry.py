"""How long to wait for a server, and how often to ask again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from localllm.errors import LocalLLMError

T = TypeVar("T")

# Answers that another try may change. 401, 403 and 404 never do.
TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529))


class Transient(Exception):
    """A failure worth another try; `error` is what to raise when the tries are used up."""

    def __init__(
        self,
        error: LocalLLMError,
        retry_after_s: float | None = None,
        answered: bool = True,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_s = retry_after_s
        self.answered = answered  # False: nobody was there at all


@dataclass(frozen=True)
class Patience:
    """Times in seconds. `attempts` counts tries in a row that bring nothing new.

    A download that has begun is worth about a minute of waiting. `page_attempts` is the number
    for small answers, which somebody waits for, and `first_attempts` that for a server that has
    never answered: no network, or a host name misspelt, should be one clear line soon.
    """

    attempts: int = 8
    page_attempts: int = 4
    first_attempts: int = 3
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    longest_retry_after_s: float = 120.0
    jitter: float = 0.5  # the share of a wait that is random
    connect_s: float = 15.0
    stall_s: float = 30.0  # a connection that brings no byte for so long is given up

    def wait_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """How long to wait after `failures` (1 for the first) tries in a row.

        Exponential with jitter, so that many clients do not come back at one moment; what the
        server asked for with Retry-After is never undercut, but bounded.
        """
        wait = min(self.longest_wait_s, self.first_wait_s * 2.0 ** (failures - 1))
        wait *= 1 - self.jitter * random.random()
        if retry_after_s is not None:
            wait = max(wait, min(retry_after_s, self.longest_retry_after_s))
        return wait

    def exhausted(self, failures: int, problem: Transient, had_answer: bool) -> bool:
        """Whether `failures` tries of a download in a row were the last."""
        return failures >= self._allowed(self.attempts, had_answer or problem.answered)

    def page_exhausted(self, failures: int, problem: Transient) -> bool:
        """Whether `failures` tries of a small request were the last."""
        return failures >= self._allowed(min(self.attempts, self.page_attempts), problem.answered)

    def _allowed(self, attempts: int, answered: bool) -> int:
        return attempts if answered else min(attempts, self.first_attempts)


def persist(
    action: Callable[[], T], patience: Patience, pause: Callable[[float], object] = time.sleep
) -> T:
    """`action()` until it works, fails for good, or the patience ends.

    `pause(seconds)` waits. Raises what `action` raises, and the `error` of its last Transient.
    """
    failures = 0
    while True:
        try:
            return action()
        except Transient as problem:
            failures += 1
            if patience.page_exhausted(failures, problem):
                raise problem.error from None
            pause(patience.wait_s(failures, problem.retry_after_s))


def retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header: seconds, or an HTTP date. None if there is none to be read."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
