"""llama.cpp's log lines: kept from the terminal, collected on demand.

The native callback hands over fragments: a line may arrive in several calls, the later
ones at level CONT or, in older parts of llama.cpp, at the level of the first. They are
joined per thread, since two threads may log at once.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum


class LogLevel(IntEnum):
    """ggml_log_level, except CONT, which is resolved into the line that it continues."""

    NONE = 0
    DEBUG = 1
    INFO = 2
    WARN = 3
    ERROR = 4


_CONT = 5


@dataclass(frozen=True)
class LogLine:
    """One whole native log line without its line break."""

    level: LogLevel
    text: str


@dataclass
class Capture:
    """The lines logged while a `capture()` block was open, in order, of all threads."""

    lines: list[LogLine] = field(default_factory=list)

    @property
    def errors(self) -> tuple[str, ...]:
        """The texts of the ERROR lines."""
        return tuple(line.text for line in self.lines if line.level is LogLevel.ERROR)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(line.text for line in self.lines if line.level is LogLevel.WARN)

    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


class LogRouter:
    """Joins fragments to lines and hands each line to every open capture."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler may run Python inside the callback and log again.
        self._lock = threading.RLock()
        self._partial: dict[int, tuple[LogLevel, str]] = {}
        self._captures: list[Capture] = []
        self._recent: deque[LogLine] = deque(maxlen=64)
        self._listeners: list[Callable[[LogLine], None]] = []
        self._verbose = False

    def feed(self, level: int, text: str) -> None:
        """Take one fragment as the native callback delivers it."""
        thread = threading.get_ident()
        with self._lock:
            old_level, old_text = self._partial.pop(thread, (LogLevel.NONE, ""))
            if level not in (_CONT, old_level):
                if old_text:
                    self._deliver(LogLine(old_level, old_text))
                    old_text = ""
                old_level = LogLevel(level) if 0 <= level < _CONT else LogLevel.INFO
            *whole, rest = (old_text + text).split("\n")
            for line in whole:
                if line:
                    self._deliver(LogLine(old_level, line))
            # The level is kept with an empty rest: CONT may start a line of its own.
            self._partial[thread] = (old_level, rest)

    def flush(self) -> None:
        """Deliver lines that still lack their line break."""
        with self._lock:
            for thread, (level, text) in list(self._partial.items()):
                if text:
                    self._deliver(LogLine(level, text))
                    self._partial[thread] = (level, "")

    def _deliver(self, line: LogLine) -> None:
        self._recent.append(line)
        for one in self._captures:
            one.lines.append(line)
        for listener in self._listeners:
            listener(line)
        if self._verbose:
            sys.stderr.write(line.text + "\n")

    def set_verbose(self, verbose: bool) -> None:
        with self._lock:
            self._verbose = verbose

    def listen(self, listener: Callable[[LogLine], None]) -> None:
        """Call `listener` with each line as it comes, on the thread that logs it."""
        with self._lock:
            self._listeners.append(listener)

    def recent(self) -> tuple[LogLine, ...]:
        """The last 64 lines, for a message about something that nobody was capturing."""
        with self._lock:
            return tuple(self._recent)

    @contextmanager
    def capture(self) -> Iterator[Capture]:
        taken = Capture()
        with self._lock:
            self.flush()
            self._captures.append(taken)
        try:
            yield taken
        finally:
            with self._lock:
                self.flush()
                # By identity: two empty captures are equal as dataclasses.
                self._captures = [one for one in self._captures if one is not taken]


router = LogRouter()
