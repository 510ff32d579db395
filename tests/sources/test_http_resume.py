"""What a killed, interrupted or failed download leaves, and how the next one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.errors import ChecksumMismatch, SourceUnreachable
from localllm.sources.base import journal_of
from localllm.sources.http import HttpFetcher
from localllm.sources.retry import Patience
from tests.support.http_server import Fault, FileServer

CHUNK = 4 << 20  # what may be fetched again
DATA = random.Random(2).randbytes(24 << 20)
SHA256 = hashlib.sha256(DATA).hexdigest()
HASTE = Patience(attempts=2, first_wait_s=0.01, stall_s=2)

FETCH = """
import sys
from pathlib import Path
from localllm.sources.http import HttpFetcher
from localllm.sources.ledger import Tuning
tuning = Tuning(piece_bytes=2 << 20, connections=int(sys.argv[3]), ramp_s=0.2)
HttpFetcher(tuning=tuning).fetch(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[4] or None)
"""


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        running.add("/m.gguf", DATA, etag="one")
        yield running


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "モデル one.part"


def _start(
    server: FileServer, partial: Path, connections: int, sha256: str = ""
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", FETCH, server.url + "/m.gguf", str(partial)]
    return subprocess.Popen([*command, str(connections), sha256])


def _killed_after(server: FileServer, process: subprocess.Popen[bytes], count: int) -> None:
    until = time.monotonic() + 30
    while server.served_bytes() < count and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(0.2)  # for the server to notice
    assert count <= server.served_bytes() < len(DATA)


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("sha256", ["", SHA256])
def test_after_kill_9_at_most_one_chunk_is_fetched_again(
    server: FileServer, partial: Path, connections: int, sha256: str
) -> None:
    server.fail("/m.gguf", Fault(bytes_per_s=8e6 if connections == 1 else 3e6), times=-1)
    process = _start(server, partial, connections, sha256)
    _killed_after(server, process, 9_000_000)
    server.mend()
    told: list[int] = []
    got = HttpFetcher().fetch(
        server.url + "/m.gguf", partial, sha256=sha256 or None, advance=told.append
    )
    assert partial.read_bytes() == DATA
    assert got.sha256 == SHA256
    assert got.resumed_bytes >= 9_000_000 - CHUNK
    assert told[0] == got.resumed_bytes and sum(told) == len(DATA)
    assert server.served_bytes() <= len(DATA) + CHUNK


def test_killed_again_and_again(server: FileServer, partial: Path) -> None:
    generator = random.Random(3)
    kills = 4
    for kill in range(kills):
        server.fail("/m.gguf", Fault(bytes_per_s=4e6), times=-1)
        process = _start(server, partial, connections=4)
        before = server.served_bytes()
        until = time.monotonic() + 20
        while server.served_bytes() < before + generator.randrange(1_000_000, 4_000_000):
            time.sleep(0.005)
            assert time.monotonic() < until, kill
        process.kill()
        process.wait()
        server.mend()
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert got.sha256 == SHA256
    assert server.served_bytes() <= len(DATA) + kills * CHUNK


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_the_partial(server: FileServer, partial: Path) -> None:
    server.fail("/m.gguf", Fault(bytes_per_s=8e6), times=-1)
    process = _start(server, partial, 1)
    until = time.monotonic() + 30
    while server.served_bytes() < 6_000_000 and time.monotonic() < until:
        time.sleep(0.01)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) != 0
    assert time.monotonic() - asked < 6
    server.mend()
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert got.sha256 == SHA256
    assert got.resumed_bytes >= 5_500_000  # an orderly end notes every byte


def _leave(server: FileServer, partial: Path, count: int, **expected: str) -> None:
    """What a download that broke after `count` bytes leaves."""
    server.fail("/m.gguf", Fault(cut_after=count))
    server.fail("/m.gguf", Fault(drop=True), times=-1)
    with pytest.raises(SourceUnreachable):
        HttpFetcher(patience=HASTE).fetch(
            server.url + "/m.gguf", partial, sha256=expected.get("sha256")
        )
    server.mend()
    server.requests.clear()


def test_a_failed_download_goes_on_where_it_stopped(server: FileServer, partial: Path) -> None:
    _leave(server, partial, 10_000_000)
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert (got.sha256, got.resumed_bytes, got.notes) == (SHA256, 10_000_000, ())
    assert server.served_bytes() == len(DATA) - 10_000_000


def test_a_finished_download_is_not_fetched_again(server: FileServer, partial: Path) -> None:
    """The process was killed between the last byte and the final name."""
    HttpFetcher().fetch(server.url + "/m.gguf", partial)
    server.requests.clear()
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert (got.sha256, got.resumed_bytes) == (SHA256, len(DATA))
    assert server.requests == []


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: FileServer, partial: Path) -> None:
    _leave(server, partial, 10_000_000)
    other = DATA[::-1]
    server.add("/m.gguf", other, etag="two")
    told: list[int] = []
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial, advance=told.append)
    assert partial.read_bytes() == other
    assert "changed at its source" in got.notes[0]
    assert got.resumed_bytes == 0
    assert told[:2] == [10_000_000, -10_000_000] and sum(told) == len(other)


def test_a_file_whose_size_changed_meanwhile(server: FileServer, partial: Path) -> None:
    _leave(server, partial, 10_000_000)
    server.add("/m.gguf", DATA[:20_000_000])
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert partial.read_bytes() == DATA[:20_000_000]
    assert "size changed" in got.notes[0]


def test_a_file_that_became_shorter_than_what_is_there(server: FileServer, partial: Path) -> None:
    """The range asked for does not exist (416)."""
    _leave(server, partial, 10_000_000)
    server.add("/m.gguf", DATA[:5_000_000], etag="one")
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert partial.read_bytes() == DATA[:5_000_000]
    assert len(got.notes) == 1
    assert server.requests[0].status == 416


def test_a_digest_that_changed_is_another_file(server: FileServer, partial: Path) -> None:
    _leave(server, partial, 10_000_000, sha256="0" * 64)
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial, sha256=SHA256)
    assert (got.sha256, got.resumed_bytes) == (SHA256, 0)
    assert "digest has changed" in got.notes[0]


def test_the_same_digest_from_another_address_goes_on(server: FileServer, partial: Path) -> None:
    _leave(server, partial, 10_000_000, sha256=SHA256)
    url = server.add("/mirror/m.gguf", DATA, etag="mirror")
    got = HttpFetcher().fetch(url, partial, sha256=SHA256)
    assert (got.sha256, got.resumed_bytes) == (SHA256, 10_000_000)


def test_another_address_without_a_digest_starts_over(server: FileServer, partial: Path) -> None:
    _leave(server, partial, 10_000_000)
    got = HttpFetcher().fetch(server.add("/other.gguf", DATA, etag="one"), partial)
    assert (got.sha256, got.resumed_bytes) == (SHA256, 0)
    assert "another address" in got.notes[0]


def test_a_server_that_cannot_resume_starts_over(server: FileServer, partial: Path) -> None:
    _leave(server, partial, 10_000_000)
    server.fail("/m.gguf", Fault(ignore_range=True), times=-1)
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert got.sha256 == SHA256
    assert "cannot resume" in got.notes[0]


def test_a_partial_longer_than_the_file_starts_over(server: FileServer, partial: Path) -> None:
    _leave(server, partial, 10_000_000)
    with partial.open("ab") as file:
        file.write(bytes(len(DATA)))
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial, expected_size=len(DATA))
    assert partial.read_bytes() == DATA
    assert "longer than the file" in got.notes[0]


def test_a_partial_shorter_than_its_journal_says(server: FileServer, partial: Path) -> None:
    """The file system lost its end, as after a loss of power."""
    _leave(server, partial, 10_000_000)
    os.truncate(partial, 3_000_000)
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert (got.sha256, got.resumed_bytes) == (SHA256, 3_000_000)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 2}', "\x00\xff"])
def test_a_journal_that_makes_no_sense_is_no_journal(
    server: FileServer, partial: Path, text: str
) -> None:
    _leave(server, partial, 10_000_000)
    journal_of(partial).write_bytes(text.encode("latin-1"))
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial)
    assert (got.sha256, got.resumed_bytes) == (SHA256, 0)


def test_resumed_bytes_that_turn_out_damaged_are_fetched_anew_once(
    server: FileServer, partial: Path
) -> None:
    _leave(server, partial, 10_000_000, sha256=SHA256)
    with partial.open("r+b") as file:
        file.write(b"rotten")
    got = HttpFetcher().fetch(server.url + "/m.gguf", partial, sha256=SHA256)
    assert (got.sha256, got.resumed_bytes) == (SHA256, 0)
    assert "damaged" in got.notes[0]
    server.fail("/m.gguf", Fault(wrong_bytes=True), times=-1)
    partial.unlink()
    with pytest.raises(ChecksumMismatch):
        HttpFetcher().fetch(server.url + "/m.gguf", partial, sha256=SHA256)


def test_a_link_to_a_finished_file_is_never_written_through(
    server: FileServer, partial: Path, tmp_path: Path
) -> None:
    finished = tmp_path / "finished.gguf"
    finished.write_bytes(b"precious")
    os.link(finished, partial)
    identity = {"url": server.url + "/m.gguf", "size_bytes": None, "sha256": None, "etag": None}
    journal = {"version": 1, "identity": identity, "done": [[0, 4]]}
    journal_of(partial).write_text(json.dumps(journal))
    assert HttpFetcher().fetch(server.url + "/m.gguf", partial).sha256 == SHA256
    assert finished.read_bytes() == b"precious"


def test_two_downloads_at_once_do_not_touch_each_other(server: FileServer, tmp_path: Path) -> None:
    other = DATA[::-1]
    server.add("/other.gguf", other)
    server.fail("/m.gguf", Fault(bytes_per_s=30e6))
    child = _start(server, tmp_path / "a", 1)
    got = HttpFetcher().fetch(server.url + "/other.gguf", tmp_path / "b")
    assert got.sha256 == hashlib.sha256(other).hexdigest()
    assert child.wait(30) == 0
    assert (tmp_path / "a").read_bytes() == DATA
