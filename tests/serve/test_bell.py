"""A bell that a thread rings without giving up the interpreter's lock."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import psutil
import pytest

from localllm.serve.answering.bell import Bell


def test_every_ring_is_heard_and_many_as_one() -> None:
    async def scene() -> int:
        rung = asyncio.Event()
        n = 0

        def hear() -> None:
            nonlocal n
            n += 1
            rung.set()

        bell = Bell(asyncio.get_running_loop(), hear)
        for _ in range(3):  # a pipe holds 64 Ki of them: more must neither block nor be lost
            thread = threading.Thread(target=lambda: [bell.ring() for _ in range(100_000)])
            thread.start()
            thread.join()
            await asyncio.wait_for(rung.wait(), 10)
            rung.clear()
        return n

    assert 3 <= asyncio.run(scene()) < 300_000


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX systems")
def test_rung_after_the_loop_it_harms_nobody(tmp_path: Path) -> None:
    """Its descriptors are its own as long as somebody can ring, and then given back."""
    loop = asyncio.SelectorEventLoop()
    n_before = psutil.Process().num_fds()
    bell = Bell(loop, lambda: None)
    assert psutil.Process().num_fds() >= n_before + 2
    loop.close()
    with (tmp_path / "file").open("wb") as file:
        bell.ring()
        assert file.tell() == 0
    assert (tmp_path / "file").read_bytes() == b""
    del bell, loop
    gc.collect()
    assert psutil.Process().num_fds() <= n_before
