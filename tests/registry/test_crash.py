"""What is promised after a crash, tested by crashing; and many processes at once."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from localllm.registry import Registry

_WORK = """
import hashlib, itertools, random, sys
from pathlib import Path
from localllm.refs import ModelRef
from localllm.registry import Arrival, Registry, Staged

home, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
registry, rng = Registry(home), random.Random(seed)
for turn in itertools.count():
    if turn == rounds:
        break
    name = f"m{rng.randrange(6)}"
    content = name.encode() * rng.randrange(1, 4000)
    with registry.lock(name):
        part = registry.partial(name, name)
        part.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        files = (Staged(part, f"{name}.gguf", len(content), digest, "weights"),)
        registry.add(Arrival(name, ModelRef.parse(name), "gguf", "hf", "org", name, files))
    print(name, digest, flush=True)
    if rng.random() < 0.3:
        for model in registry.models():
            if model.name == f"m{rng.randrange(6)}":
                registry.remove(model)
    registry.names()
"""


def start(home: Path, seed: int, rounds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WORK, str(home), str(seed), str(rounds)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip


def check(registry: Registry) -> None:
    """Every row has its file, every file its digest, the index its integrity."""
    for model in registry.models():
        for file in model.files:
            content = file.path.read_bytes()
            assert len(content) == file.size_bytes
            assert hashlib.sha256(content).hexdigest() == file.sha256
    if registry.database.path.exists():
        with sqlite3.connect(registry.database.path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            assert not connection.execute("PRAGMA foreign_key_check").fetchall()


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a POSIX signal")
def test_killed_at_random_moments_nothing_finished_is_lost(registry: Registry) -> None:
    rng = random.Random(7)
    for seed in range(12):
        worker = start(registry.home, seed, -1)
        assert worker.stdout is not None
        worker.stdout.readline()  # at least one landing
        time.sleep(rng.random() * 0.15)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        assert worker.stderr is not None
        worker.stderr.close()
        check(registry)


def test_ten_processes_at_once(registry: Registry) -> None:
    workers = [start(registry.home, seed, 12) for seed in range(10)]
    for worker in workers:
        _, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
    check(registry)
    registry.models()


def test_a_lock_is_free_after_its_holder_was_killed(registry: Registry) -> None:
    code = (
        "import sys,time;from pathlib import Path;from localllm.registry import Registry\n"
        "with Registry(Path(sys.argv[1])).lock('k'): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(registry.home)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    waited: list[bool] = []
    with registry.lock("k", lambda: waited.append(True)):
        pass
    assert waited in ([], [True])
