"""The process that measures for a sweep, so that a crash of native code ends a row and no more.

    python -m localllm.library.bench.measuring.child

Orders (of rows, and of what is measured beside them) come in on stdin, one JSON object a line; on
stdout come lines {"event": ...}: loading (bytes), sample (ns), and one of done, failed (a row's
failure) or error (whatever ends the sweep) for each order. When stdin closes, because the parent
is gone or has enough, it ends at once.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from localllm.errors import LocalLLMError
from localllm.library.bench.measuring.extras import Extra, measure_extra
from localllm.library.bench.measuring.failures import failure_of
from localllm.library.bench.measuring.measure import Bencher, Order
from localllm.library.bench.measuring.priority import set_priority
from localllm.library.bench.restore import value_from


def main() -> None:
    """Measure what is ordered until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _go_first()
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    with Bencher() as bencher:
        while True:
            _answer(bencher, orders.get())


def _listen(orders: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)  # nobody reads what is being measured


def _go_first() -> None:
    """Should memory run out, have Linux kill this process rather than the one that keeps the
    finished rows. Other systems have no such wish."""
    if sys.platform == "linux":
        try:
            Path("/proc/self/oom_score_adj").write_text("1000")
        except OSError:
            return  # a container may forbid it; then the kernel takes the larger one, us


def _answer(bencher: Bencher, request: dict[str, Any]) -> None:
    try:
        if request["verbose"]:
            from localllm.engine import native

            native.set_verbose(True)
        if "extra" in request:
            bencher.close()  # its model is in the way
            rows = measure_extra(
                value_from(Extra, request["extra"]), lambda n: send("sample", ns=0)
            )
            send("done", rows=[asdict(row) for row in rows])
            return
        order = value_from(Order, request["order"])
        set_priority(order.method.priority)
        measured = bencher.measure(
            order,
            loading=lambda n: send("loading", bytes=n),
            sampled=lambda ns: send("sample", ns=ns),
        )
        send("done", measured=asdict(measured))
    except (LocalLLMError, MemoryError) as error:
        _report(error)


def _report(error: LocalLLMError | MemoryError) -> None:
    if failure := failure_of(error):
        send("failed", failure=asdict(failure))
    elif isinstance(error, LocalLLMError):
        problem = {"class": type(error).__name__, "message": error.message, "hint": error.hint}
        send("error", error=problem)


def send(event: str, **values: Any) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
