"""Native calls that make something new, and the flag that native code reads.

While the main thread sits in C, Python runs no signal handler, and one that raises inside
a ctypes callback (progress, log) is printed and swallowed. So loading runs on a thread of
its own while the main thread waits interruptibly; an interrupt raises the call's abort
flag, waits for the call to return, and then goes on up. (Computing does otherwise: see
`interrupts`.)

Such a thread also lets a failed GGML_ASSERT be an error instead of the end of the process:
C code cannot be unwound, but the thread can be left standing where it is (`park`).
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

from localllm.errors import EngineError

T = TypeVar("T")

# How long a wait may be deaf to Ctrl-C on Windows; elsewhere signals end the wait at once.
_POLL_S = 0.1


class GaveUp(EngineError):
    """A GGML_ASSERT failed on an expendable thread. `why` is the assertion."""

    def __init__(self, why: str) -> None:
        super().__init__(f"llama.cpp gave up: {why}")
        self.why = why


class AbortFlag:
    """A flag that any thread raises and native code reads without the interpreter.

    llama.cpp asks its abort callback before every node of the compute graph, hundreds of
    times a token. A Python callback there costs a GIL hand-over each; C's own `strlen` on
    a one-byte string is a callback too: it answers 0 (go on) while the string is empty
    and 1 (abort) once its first byte is set.
    """

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)

    def raise_(self) -> None:
        self._byte[0] = b"\x01"

    def clear(self) -> None:
        self._byte[0] = b"\x00"

    @property
    def raised(self) -> bool:
        return self._byte[0] != b"\x00"

    def callback(self, prototype: Any) -> tuple[Any, ctypes.c_void_p]:
        """The C function and its argument, for `abort_callback` and `abort_callback_data`.

        The flag must outlive whatever holds them.
        """
        libc = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
        data = ctypes.c_void_p(ctypes.addressof(self._byte))
        return ctypes.cast(libc.strlen, prototype), data


def interruptible(
    call: Callable[[], T],
    abort: Callable[[], None] | None = None,
    discard: Callable[[T], None] | None = None,
    *,
    expendable: bool = False,
) -> T:
    """Run `call` so that Ctrl-C in the main thread is honoured while it runs.

    On an interrupt `abort` is called, the call's end is awaited, a result it still
    produced goes to `discard`, and the interrupt is raised. Off the main thread, where no
    signal arrives, this is a plain call.

    `expendable` is for calls that make something new and hold no lock of ours: should
    llama.cpp assert in one, it is given up and GaveUp is raised.
    """
    on_main = threading.current_thread() is threading.main_thread()
    if not on_main and not expendable:
        return call()
    future: Future[T] = Future()
    # A daemon: one that is parked must not hold up the exit.
    thread = threading.Thread(
        target=_work, args=(call, future, expendable), name="localllm-native", daemon=True
    )
    interrupt: BaseException | None = None
    started = False
    while not future.done():
        try:
            if not started:
                started = True
                thread.start()
            wait_for([future], _POLL_S if sys.platform == "win32" else None)
        except BaseException as error:  # noqa: BLE001 - whatever a signal handler raises
            interrupt = interrupt or error
            # A cancelled future was never started: the thread will find nothing to do.
            if not future.cancel() and abort is not None:
                abort()
    if interrupt is not None:
        if discard is not None and not future.cancelled() and future.exception() is None:
            discard(future.result())
        raise interrupt
    return future.result()


def park(error: EngineError) -> None:
    """On an expendable thread: hand `error` to whoever waits for it, and never return.

    Elsewhere this returns at once.
    """
    future = _expendable.get(threading.get_ident())
    if future is not None:
        future.set_exception(error)
        threading.Event().wait()


_expendable: dict[int, Future[Any]] = {}  # by thread


def _work(call: Callable[[], T], future: Future[T], expendable: bool) -> None:
    if not future.set_running_or_notify_cancel():
        return
    thread = threading.get_ident()
    if expendable:
        _expendable[thread] = future
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - carried to the waiting thread
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        _expendable.pop(thread, None)
