"""Work on several threads whose results come in order.

ggml's and numpy's inner loops let the interpreter go, so threads share the work; what is in
flight is bounded, so that memory is too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """`with Workers(n) as workers: for result in workers.in_order(items, work): ...`"""

    def __init__(self, n_threads: int = 0) -> None:
        from localllm.engine.threads import default_threads

        self.n_threads = n_threads or default_threads()
        self._pool = ThreadPoolExecutor(self.n_threads, "localllm-merge")

    def in_order(self, items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[Result]:
        """`work(item)` of each item, in their order; `items` is drawn from in this thread."""
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(self._pool.submit(work, item))
                if len(pending) > self.n_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
