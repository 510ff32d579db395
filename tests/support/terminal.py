"""A real pty with a terminal emulator behind it: what a person would see.

with Terminal([sys.executable, "-m", "localllm", "chat", "tiny"]) as terminal:
    terminal.until(">>> ")
    terminal.send("hello\r")
    assert "hello" in terminal.text()          # the screen and what scrolled off it
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

TIMEOUT_S = 60.0


class Terminal:
    """A child on a pty. Read `raw` for the bytes, `lines()` for the screen."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 80,
        rows: int = 24,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
    ) -> None:
        import pty

        import pyte

        self._master, slave = pty.openpty()
        self.screen: Any = pyte.HistoryScreen(columns, rows, history=5000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.resize(columns, rows, signalled=False)
        environ = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "", **(env or {})}
        for name in ("COLUMNS", "LINES"):
            environ.pop(name, None)
        self.child = subprocess.Popen(
            command, stdin=slave, stdout=slave if stdout is None else stdout, stderr=slave,
            env=environ, start_new_session=True, preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        os.close(self._master)

    def send(self, text: str | bytes) -> None:
        os.write(self._master, text.encode() if isinstance(text, str) else text)

    def interrupt(self) -> None:
        """What Ctrl-C does in a terminal that is not raw: the driver sends the signal."""
        self.send(b"\x03")

    def resize(self, columns: int, rows: int, *, signalled: bool = True) -> None:
        import fcntl
        import struct
        import termios

        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        if signalled:
            self.screen.resize(rows, columns)
            os.killpg(self.child.pid, signal.SIGWINCH)

    def pump(self, seconds: float) -> bool:
        """Take in what comes for so long; False once the child has closed the terminal."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self._master], [], [], left)
            if not ready:
                return True
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return False
            if not data:
                return False
            self.raw += data
            self._stream.feed(data)
            self._reply(data)
        return True

    def _reply(self, data: bytes) -> None:
        """Answer a request for the cursor's position, as terminals do."""
        for _ in range(data.count(b"\x1b[6n")):
            cursor = self.screen.cursor
            self.send(f"\x1b[{cursor.y + 1};{cursor.x + 1}R")

    def until(self, text: str, timeout: float = TIMEOUT_S, count: int = 1) -> None:
        """Wait until the screen and its scrollback hold `text` so many times."""
        deadline = time.monotonic() + timeout
        while self.text().count(text) < count:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.text()}"
            if not self.pump(0.05):
                assert self.text().count(text) >= count, f"ended without {text!r}:\n{self.text()}"

    def prompts(self) -> int:
        """How many lines begin with a prompt so far."""
        return sum(line.startswith(">>>") for line in self.text().splitlines())

    def until_ready(self, timeout: float = TIMEOUT_S, after: int = 0) -> None:
        """Wait for a prompt at the cursor, with more than `after` of them to be seen."""
        deadline = time.monotonic() + timeout
        while self.prompts() <= after or not self.screen.display[self.screen.cursor.y].startswith(
            ">>> "
        ):
            assert time.monotonic() < deadline, self.text()
            assert self.pump(0.05), f"ended:\n{self.text()}"
        self.pump(0.1)

    def lines(self) -> list[str]:
        """The screen, top to bottom, without blanks at the ends of lines."""
        return [line.rstrip() for line in self.screen.display]

    def scrolled(self) -> list[str]:
        """What scrolled off at the top, oldest first."""
        return [
            "".join(row[x].data for x in range(self.screen.columns)).rstrip()
            for row in self.screen.history.top
        ]

    def text(self) -> str:
        return "\n".join([*self.scrolled(), *self.lines()])

    def finish(self, timeout: float = TIMEOUT_S) -> int:
        """Wait for the child's end; its exit status."""
        deadline = time.monotonic() + timeout
        while self.child.poll() is None and time.monotonic() < deadline:
            self.pump(0.05)
        with contextlib.suppress(OSError):
            self.pump(0.05)
        return self.child.wait(timeout=1)


def _own_terminal() -> None:
    """Make the pty the child's controlling terminal, so that Ctrl-C reaches it."""
    import fcntl
    import termios

    with contextlib.suppress(OSError):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
