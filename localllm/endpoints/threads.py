"""One thread with an event loop, for all endpoints that are read from ordinary code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Run `work` on the shared loop."""
    return asyncio.run_coroutine_threadsafe(work, shared_loop())


def shared_loop() -> asyncio.AbstractEventLoop:
    """Made on first use. Its thread ends with the process: it holds nothing that must be kept."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(
                target=_loop.run_forever, name="localllm-endpoints", daemon=True
            ).start()
        return _loop
