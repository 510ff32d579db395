"""Ctrl-C during computation on the main thread."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from localllm.engine.interrupts import attended
from localllm.errors import EngineError, Interrupted
from tests.engine.conftest import ctrl_c

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")


class Work:
    """Stands for a C call: it goes on until someone aborts it."""

    def __init__(self) -> None:
        self.aborted = threading.Event()

    def __call__(self) -> str:
        # in C no bytecode runs, so no handler does; here one may, and only takes a note
        if self.aborted.wait(5):
            raise Interrupted("the computation was stopped")
        return "done"


def test_the_result_comes_through_and_nothing_stays_changed() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert attended(lambda: 42, lambda: None) == 42
    with pytest.raises(EngineError):
        attended(lambda: (_ for _ in ()).throw(EngineError("no")), lambda: None)
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_ctrl_c_aborts_and_becomes_keyboard_interrupt() -> None:
    work = Work()
    begun = time.perf_counter()
    with ctrl_c(0.05), pytest.raises(KeyboardInterrupt):
        attended(work, work.aborted.set)
    assert time.perf_counter() - begun < 2


def test_a_late_ctrl_c_after_the_work_is_done_still_counts() -> None:
    def work() -> str:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.05)
        return "done"

    with pytest.raises(KeyboardInterrupt):
        attended(work, lambda: None)


def test_it_is_not_lost_behind_another_failure() -> None:
    def work() -> None:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.05)
        raise EngineError("something else")

    with pytest.raises(KeyboardInterrupt):
        attended(work, lambda: None)


def test_a_handler_of_ones_own_is_called_once() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    work = Work()
    try:
        with ctrl_c(0.05), pytest.raises(Interrupted):
            attended(work, work.aborted.set)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ctrl_c(0.02):
            attended(lambda: time.sleep(0.1), lambda: None)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_signals_do_not_abort() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1))
    timer.start()
    aborted: list[bool] = []
    try:
        attended(lambda: time.sleep(0.2), lambda: aborted.append(True))
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert aborted == []


def test_the_next_work_is_not_aborted_by_the_last_signal() -> None:
    for _ in range(20):
        work = Work()
        with ctrl_c(0.005), pytest.raises(KeyboardInterrupt):
            attended(work, work.aborted.set)
        following = threading.Event()
        attended(lambda: time.sleep(0.01), following.set)
        assert not following.is_set()


def test_someone_elses_wakeup_descriptor_comes_back() -> None:
    import socket

    read, write = socket.socketpair()
    write.setblocking(False)
    before = signal.set_wakeup_fd(write.fileno())
    try:
        attended(lambda: None, lambda: None)
        assert signal.set_wakeup_fd(before) == write.fileno()
    finally:
        signal.set_wakeup_fd(-1)
        read.close()
        write.close()


def test_off_the_main_thread_it_is_a_plain_call() -> None:
    seen: list[int] = []
    thread = threading.Thread(
        target=lambda: seen.append(attended(threading.get_ident, lambda: None))
    )
    thread.start()
    thread.join()
    assert seen == [thread.ident]
