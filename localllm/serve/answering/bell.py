"""Wakes an event loop from a thread that computes, and costs that thread next to nothing.

`call_soon_threadsafe` gives up the interpreter's lock for its system call; the loop, awake,
takes it, and the thread gets it back only when the loop has sent everyone's tokens: half a
millisecond a step in which nobody computes. Here the call is made with the lock held. The loop
gets it a moment later, when the thread computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import weakref
from collections.abc import Callable


class Bell:
    """`ring`, from any thread, has `rung` called on `loop` soon, once for all rings until then.

    To be made on the loop's own thread, or before it runs. The loop keeps it until it is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, rung: Callable[[], None]) -> None:
        self._loop, self._rung = loop, rung
        self._reader = -1
        self._write: Callable[[], object] | None = None
        if os.name == "posix":
            self._hang()

    def _hang(self) -> None:
        self._reader, writer = os.pipe()
        # Closed when neither the loop nor a thread has this any more, not before: a ring at a
        # number that is another file's by then would write into it.
        weakref.finalize(self, _close, self._reader, writer)
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)  # full of rings, it has been rung
        self._loop.add_reader(self._reader, self._heard)
        write = ctypes.PyDLL(None).write  # of a PyDLL: the lock is kept
        write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
        write.restype = ctypes.c_ssize_t
        self._write = functools.partial(write, writer, b"\0", 1)

    def ring(self) -> None:
        if self._write is not None:
            self._write()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._rung)

    def _heard(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)
        self._rung()


def _close(reader: int, writer: int) -> None:
    os.close(writer)
    os.close(reader)
