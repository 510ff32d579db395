"""Ctrl-C during a long computation on the main thread.

While the main thread sits in C, Python runs no signal handler. But the C-level handler
writes the signal's number to the wakeup descriptor at once, and a thread of ours, waiting on
the other end, can make the computation stop.

The computation itself stays on the thread that always computes: OpenMP keeps a pool of
threads for each thread that ever called it, and with more of them than cores libgomp no
longer spins at barriers. Token generation on a second thread was measured 20 % slower.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import TypeVar

from localllm.errors import Interrupted

T = TypeVar("T")

_FLUSH = 0  # no signal has this number


def attended(call: Callable[[], T], abort: Callable[[], None]) -> T:
    """Run `call`, which may stay in C for long; on Ctrl-C call `abort` from another thread.

    Once `call` has ended, in whatever way, the handler that was set for SIGINT runs: usually
    it raises KeyboardInterrupt. Off the main thread, where no handler ever runs, and
    where SIGINT is ignored or left to the system, this is a plain call.
    """
    on_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if on_main else None
    if not callable(handler):
        return call()
    seen: list[tuple[int, FrameType | None]] = []
    stopped: Interrupted | None = None
    # Not the handler itself: raised inside a callback from C, its exception would be lost.
    signal.signal(signal.SIGINT, lambda number, frame: seen.append((number, frame)))
    watcher = _watcher()
    descriptor = watcher.begin(abort)
    try:
        result = call()
    except Interrupted as error:
        stopped = error
    finally:
        watcher.end(descriptor, flush=bool(seen))
        signal.signal(signal.SIGINT, handler)
        if seen:
            handler(*seen[0])
    if stopped is not None:
        raise stopped
    return result


class _Watcher:
    """The thread at the other end of the wakeup descriptor."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._abort: Callable[[], None] | None = None
        self._flushed = threading.Event()
        threading.Thread(target=self._watch, name="localllm-ctrl-c", daemon=True).start()

    def begin(self, abort: Callable[[], None]) -> int:
        """Watch for `abort`; the wakeup descriptor that was set before."""
        self._abort = abort
        return signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)

    def end(self, descriptor: int, *, flush: bool) -> None:
        signal.set_wakeup_fd(descriptor)
        if flush:  # a signal's byte that is still under way must not abort what comes next
            self._flushed.clear()
            self._write.send(bytes([_FLUSH]))
            self._flushed.wait(1.0)
        self._abort = None

    def _watch(self) -> None:
        while received := self._read.recv(64):
            abort = self._abort
            if signal.SIGINT in received and abort is not None:
                abort()
            if _FLUSH in received:
                self._flushed.set()


@cache
def _watcher() -> _Watcher:
    return _Watcher()
