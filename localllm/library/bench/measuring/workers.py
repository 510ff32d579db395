"""Who measures a row: a child process, which may crash, or this process.

Both take an Order and give Measured or raise RowFailed; what concerns the whole sweep (a
damaged file) is raised as it is.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Protocol

from localllm import config
from localllm import errors as known_errors
from localllm.errors import EngineError, LocalLLMError
from localllm.library.bench.measuring.extras import KINDS, Extra, Row, measure_extra
from localllm.library.bench.measuring.failures import death, failure_of
from localllm.library.bench.measuring.measure import Bencher, Loading, Measured, Order, Sampled
from localllm.library.bench.measuring.priority import set_priority
from localllm.library.bench.record import Failure
from localllm.library.bench.restore import value_from

_LAST_LINES = 50
_POLL_S = 0.5  # how long Windows may be deaf to Ctrl-C


class RowFailed(Exception):
    """A row has no figures; the sweep goes on."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Worker(Protocol):
    """Measures rows, one at a time."""

    def measure(self, order: Order, loading: Loading, sampled: Sampled) -> Measured: ...

    def extra(self, extra: Extra, sampled: Sampled) -> tuple[Row, ...]: ...

    def close(self) -> None: ...


class HereWorker:
    """Measures in this process: for profilers and debuggers. A crash ends the program, and a
    time limit is looked at between samples only."""

    def __init__(self, timeout_s: float | None = None) -> None:
        self._bencher = Bencher()
        self._timeout_s = timeout_s

    def extra(self, extra: Extra, sampled: Sampled) -> tuple[Row, ...]:
        self._bencher.close()  # its model is in the way
        try:
            return measure_extra(extra, lambda n: sampled(0))
        except (LocalLLMError, MemoryError) as error:
            if failure := failure_of(error):
                raise RowFailed(failure) from None
            raise

    def measure(self, order: Order, loading: Loading, sampled: Sampled) -> Measured:
        deadline = _deadline(self._timeout_s)

        def watched(ns: int) -> None:
            sampled(ns)
            if time.monotonic() >= deadline:
                raise RowFailed(_too_long(self._timeout_s))

        set_priority(order.method.priority)
        try:
            return self._bencher.measure(order, loading, watched)
        except (LocalLLMError, MemoryError) as error:
            if failure := failure_of(error):
                raise RowFailed(failure) from None
            raise

    def close(self) -> None:
        self._bencher.close()


class ChildWorker:
    """Measures in a process of its own (`child`), started when it is needed and again after a
    crash. The model stays loaded in it from row to row.

    `timeout_s` ends a row that takes longer, loading included.
    """

    def __init__(self, timeout_s: float | None = None, *, verbose: bool = False) -> None:
        self._timeout_s = timeout_s
        self._verbose = verbose
        self._child: _Child | None = None

    def measure(self, order: Order, loading: Loading, sampled: Sampled) -> Measured:
        done = self._ask({"order": _plain(order)}, loading, sampled)
        return value_from(Measured, done["measured"])

    def extra(self, extra: Extra, sampled: Sampled) -> tuple[Row, ...]:
        done = self._ask({"extra": asdict(extra)}, lambda n: None, sampled)
        kind: type[Row] = KINDS[extra.what]
        return tuple(value_from(kind, row) for row in done["rows"])

    def _ask(self, request: dict[str, Any], loading: Loading, sampled: Sampled) -> dict[str, Any]:
        deadline = _deadline(self._timeout_s)
        child = self._running()
        try:
            child.send({**request, "verbose": self._verbose})
            while True:
                event = child.next(deadline)
                if event is None:
                    raise RowFailed(child.death())
                match event["event"]:
                    case "loading":
                        loading(event["bytes"])
                    case "sample":
                        sampled(event["ns"])
                    case "done":
                        return event
                    case "failed":
                        raise RowFailed(value_from(Failure, event["failure"]))
                    case "error":
                        raise _known(event["error"])
        except TimeoutError:
            raise RowFailed(_too_long(self._timeout_s)) from None
        finally:
            if not child.answered:  # it is dead, or at work on what nobody waits for
                self.close()

    def _running(self) -> _Child:
        if self._child is None:
            self._child = _Child(self._verbose)
        self._child.answered = False
        return self._child

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._child.process.pid if self._child else None

    def close(self) -> None:
        """End the child, whatever it is doing."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()


class _Child:
    """The process and its three pipes. stdout and stderr are read by threads, which sleep while
    nothing comes: the child is being timed."""

    def __init__(self, verbose: bool) -> None:
        # It must find this package, and nothing that lies in the current folder (-P).
        package_root = str(Path(__file__).resolve().parents[4])
        environment = {**config.environment(), "PYTHONPATH": package_root}
        environment["GGML_NO_BACKTRACE"] = "1"
        try:
            self.process: subprocess.Popen[str] = subprocess.Popen(
                [sys.executable, "-P", "-m", "localllm.library.bench.measuring.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
            )
        except OSError as error:
            raise EngineError(f"cannot start a process to measure in: {error}") from None
        self.answered = False
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        assert self.process.stdout is not None and self.process.stderr is not None
        self._threads = (
            threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._hear, args=(self.process.stderr, verbose), daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def send(self, request: dict[str, Any]) -> None:
        """Hand over an order; a child that is dead by now is found out by `next`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            return

    def next(self, deadline: float) -> dict[str, Any] | None:
        """The next event, None once the child has ended. Raises TimeoutError at `deadline`."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                event = self._events.get(timeout=min(left, _POLL_S))
            except queue.Empty:
                continue
            self.answered = event is not None and event["event"] in ("done", "failed", "error")
            return event

    def death(self) -> Failure:
        """Why it ended."""
        returncode = self.process.wait()
        self._threads[1].join(5)
        return death(returncode, list(self._last))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(5)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            _close(pipe)

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            try:
                self._events.put(json.loads(line))
            except ValueError:
                self._last.append(line.strip())  # not ours: a library that prints
        self._events.put(None)

    def _hear(self, pipe: IO[str], verbose: bool) -> None:
        for line in pipe:
            if line.strip():
                self._last.append(line.strip())
            if verbose and sys.stderr is not None:
                sys.stderr.write(line)


def _close(pipe: IO[str] | None) -> None:
    if pipe is not None:
        try:
            pipe.close()
        except OSError:
            return  # what was still to be written to a dead child


def _deadline(timeout_s: float | None) -> float:
    return time.monotonic() + (float("inf") if timeout_s is None else timeout_s)


def _too_long(timeout_s: float | None) -> Failure:
    return Failure("time_limit", f"not done within {timeout_s:g} s")


def _plain(order: Order) -> dict[str, Any]:
    """As JSON. The speed estimate and the hook are nothing to the child."""
    plan = order.plan
    context = replace(plan.context, eval_hook=None)
    return asdict(replace(order, plan=replace(plan, speed=None, context=context)))


def _known(problem: dict[str, str]) -> LocalLLMError:
    kind = getattr(known_errors, problem["class"], EngineError)
    error: LocalLLMError = kind(problem["message"], problem["hint"])
    return error
