"""What the terminal can do, and keeping it calm while an answer is drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


def can_redraw(out: TextIO) -> bool:
    """Whether lines can be drawn again: not with TERM=dumb, nor in an old Windows console."""
    from rich.console import Console

    console = Console(file=out)
    return console.is_terminal and not console.is_dumb_terminal and not console.legacy_windows


@contextmanager
def keys_unseen() -> Iterator[None]:
    """Keys typed meanwhile are not shown (they would stand in the middle of what is drawn); they
    wait for the next prompt. Ctrl-C works as ever. Nothing happens without a POSIX terminal."""
    with _echo(False):
        yield


@contextmanager
def keys_seen() -> Iterator[None]:
    """For a question in between: what was typed before it does not answer it."""
    with _echo(True):
        yield


@contextmanager
def _echo(on: bool) -> Iterator[None]:
    if sys.platform == "win32" or sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    try:
        before = termios.tcgetattr(descriptor)
    except termios.error:
        yield
        return
    changed = [*before]
    changed[3] = changed[3] | termios.ECHO if on else changed[3] & ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSAFLUSH if on else termios.TCSANOW, changed)
    try:
        yield
    finally:
        # with the terminal gone there is nothing to put back
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
