"""What is piped into a command that may also have a prompt, without ever hanging on a pipe that
nobody writes to (CI, ssh, cron).

Without a PROMPT, or with `-`, stdin is the prompt and is read to its end. With a PROMPT, a file or
a pipe on stdin is put after it: it is read while the model loads, and once its first byte came, to
its end. A pipe from which nothing came when the model is ready, and not within PATIENCE_S of the
start, is left alone, which is said; `--stdin` waits for it however long, `--no-stdin` never looks.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from localllm.errors import UsageProblem

PATIENCE_S = 3.0
LIMIT_BYTES = 64 << 20
_BLOCK = 1 << 16


class Piped:
    """Reads stdin on a thread of its own from the start. Not for a terminal."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._size = 0
        self._first, self._done = threading.Event(), threading.Event()
        self._error: OSError | None = None
        self._began = time.monotonic()
        self._descriptor = _descriptor()
        if self._descriptor is None:
            self._take((sys.stdin.read() if sys.stdin is not None else "").encode())
            self._done.set()
        else:
            # os.read, not sys.stdin: a thread in there would hold its lock when we exit
            threading.Thread(target=self._read, name="localllm-stdin", daemon=True).start()

    def wait(self, *, patient: bool) -> str | None:
        """All of the text; None where nothing came in time (never, if `patient`).

        Raises UsageProblem for what is no text, or too much of it.
        """
        left = None if patient else max(0.0, self._began + PATIENCE_S - time.monotonic())
        if not _until(self._first, left) and not self._done.is_set():
            return None
        _until(self._done, None)
        if self._error is not None:
            raise UsageProblem(f"stdin cannot be read: {self._error.strerror}")
        return _text(b"".join(self._blocks), self._size)

    def _read(self) -> None:
        try:
            while block := os.read(self._descriptor or 0, _BLOCK):
                self._take(block)
                if self._size > LIMIT_BYTES:
                    break
        except OSError as error:
            self._error = error
        self._done.set()
        self._first.set()

    def _take(self, block: bytes) -> None:
        self._blocks.append(block)
        self._size += len(block)
        self._first.set()


def text_of(raw: bytes, what: str) -> str:
    """`raw` as text. Raises UsageProblem for bytes that are none."""
    encoding = "utf-8-sig"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"  # PowerShell's
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        raise UsageProblem(f"{what} is no text in UTF-8") from None
    if "\0" in text:
        raise UsageProblem(f"{what} is no text: it holds NUL characters")
    return text


def _text(raw: bytes, size: int) -> str:
    if size > LIMIT_BYTES:
        raise UsageProblem(f"more than {LIMIT_BYTES >> 20} MiB on stdin: no model reads that")
    return text_of(raw, "what is piped in")


def _descriptor() -> int | None:
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return None  # closed, or not a real file


def _until(event: threading.Event, left: float | None) -> bool:
    """Wait, open to Ctrl-C on Windows too, where a wait without an end is not."""
    if left is not None:
        return event.wait(left)
    while not event.wait(0.5):
        pass
    return True
