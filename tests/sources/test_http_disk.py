"""A disk that is full or may not be written: one clear line, and what arrived is kept."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.errors import DiskFull, HomeUnwritable
from localllm.sources.http import HttpFetcher
from localllm.sources.ledger import Tuning
from tests.support.http_server import Fault, FileServer

DATA = random.Random(6).randbytes(24 << 20)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        running.add("/m.gguf", DATA, etag="one")
        yield running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB; only root of a Linux machine can make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("mounting a small file system needs root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_too_small_is_told_before_the_first_byte(
    server: FileServer, small_disk: Path
) -> None:
    partial = small_disk / "m.part"
    with pytest.raises(DiskFull, match=r"m\.part: 0\.03 GB more needed, 0\.02 GB free"):
        HttpFetcher().fetch(server.url + "/m.gguf", partial, expected_size=len(DATA))
    assert server.requests == []
    with pytest.raises(DiskFull, match="no room"):  # learned from the answer
        HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert server.served_bytes() < len(DATA)


def test_a_disk_that_fills_up_keeps_the_partial(server: FileServer, small_disk: Path) -> None:
    partial, ballast = small_disk / "m.part", small_disk / "ballast"
    server.fail("/m.gguf", Fault(no_length=True, ignore_range=True))  # no size: no warning
    tuning = Tuning(journal_bytes=1 << 20)
    with pytest.raises(DiskFull, match="no room for"):
        HttpFetcher(tuning=tuning).fetch(server.url + "/m.gguf", partial)
    there = partial.stat().st_size
    assert there > 10 << 20
    ballast.unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert got.sha256 == SHA256
    assert got.resumed_bytes >= there - (2 << 20)


def test_a_read_only_file_system(server: FileServer, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(HomeUnwritable, match="Read-only file system"):
        HttpFetcher().fetch(server.url + "/m.gguf", small_disk / "m.part")
