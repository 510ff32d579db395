"""Ctrl-C while native code runs."""

from __future__ import annotations

import ctypes
import signal
import threading
import time

import pytest

from localllm.engine.calls import AbortFlag, interruptible
from tests.engine.conftest import ctrl_c

CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)


def test_native_code_reads_the_flag() -> None:
    flag = AbortFlag()
    callback, data = flag.callback(CALLBACK)
    assert callback(data) is False
    flag.raise_()
    assert callback(data) is True
    assert flag.raised
    flag.clear()
    assert callback(data) is False


def test_result_and_exception_come_through() -> None:
    assert interruptible(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)


def test_off_the_main_thread_it_is_a_plain_call() -> None:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(interruptible(threading.get_ident)))
    thread.start()
    thread.join()
    assert seen == [thread.ident]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
def test_ctrl_c_aborts_waits_and_discards() -> None:
    flag, discarded = AbortFlag(), list[str]()

    def work() -> str:
        while not flag.raised:
            time.sleep(0.005)
        time.sleep(0.05)
        return "half a result"

    with ctrl_c(0.1), pytest.raises(KeyboardInterrupt):
        interruptible(work, abort=flag.raise_, discard=discarded.append)
    assert discarded == ["half a result"]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
def test_impatience_does_not_leave_the_call_running() -> None:
    ended = threading.Event()

    def work() -> None:
        time.sleep(0.6)
        ended.set()

    with ctrl_c(0.05, 0.1, 0.15), pytest.raises(KeyboardInterrupt):
        interruptible(work)
    assert ended.is_set()
