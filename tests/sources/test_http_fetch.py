"""HttpFetcher.fetch from a server that misbehaves: the whole file, or one clear error."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.errors import (
    AccessDenied,
    ChecksumMismatch,
    HomeUnwritable,
    SourceFailed,
    SourceNotFound,
    SourceUnreachable,
)
from localllm.sources.base import journal_of
from localllm.sources.http import HttpFetcher
from localllm.sources.retry import Patience
from tests.support.http_server import Fault, FileServer

DATA = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
HASTE = Patience(first_wait_s=0.01, longest_wait_s=0.05, stall_s=0.3, connect_s=1.0)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        running.add("/m.gguf", DATA, etag="one")
        yield running


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "partial" / "m.gguf.part"


@pytest.fixture
def fetcher() -> HttpFetcher:
    return HttpFetcher(patience=HASTE)


def test_a_file_arrives_with_its_digest_and_progress(
    server: FileServer, partial: Path, fetcher: HttpFetcher
) -> None:
    told: list[int] = []
    got = fetcher.fetch(server.url + "/m.gguf", partial, sha256=SHA256.upper(), advance=told.append)
    assert partial.read_bytes() == DATA
    assert (got.size_bytes, got.sha256) == (len(DATA), SHA256)
    assert (got.resumed_bytes, got.verified, got.notes) == (0, True, ())
    assert sum(told) == len(DATA)
    assert len(server.requests) == 1


def test_without_a_published_digest_nothing_is_called_verified(
    server: FileServer, partial: Path, fetcher: HttpFetcher
) -> None:
    got = fetcher.fetch(server.url + "/m.gguf", partial)
    assert (got.sha256, got.verified) == (SHA256, False)


def test_an_empty_file(server: FileServer, partial: Path, fetcher: HttpFetcher) -> None:
    server.add("/empty", b"")
    got = fetcher.fetch(server.url + "/empty", partial)
    assert (got.size_bytes, got.sha256) == (0, hashlib.sha256(b"").hexdigest())
    assert partial.read_bytes() == b""


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_after=1_000_000),
        Fault(cut_after=0),
        Fault(drop=True),
        Fault(stall_after=700_000, stall_s=5),
        Fault(status=503),
        Fault(status=500),
        Fault(status=408),
        Fault(status=425),
        Fault(status=429),
        Fault(more_length=0, cut_after=2_999_999),
    ],
    ids=lambda fault: repr({k: v for k, v in vars(fault).items() if v})[:40],
)
def test_troubles_that_pass_are_overcome_from_where_they_struck(
    server: FileServer, partial: Path, fetcher: HttpFetcher, fault: Fault
) -> None:
    server.fail("/m.gguf", fault, times=2)
    told: list[int] = []
    got = fetcher.fetch(server.url + "/m.gguf", partial, advance=told.append)
    assert partial.read_bytes() == DATA
    assert got.notes == ()
    assert sum(told) == len(DATA)
    assert server.served_bytes() == len(DATA)  # not a byte twice


def test_a_body_of_unknown_length(server: FileServer, partial: Path, fetcher: HttpFetcher) -> None:
    server.fail("/m.gguf", Fault(no_length=True, ignore_range=True))
    got = fetcher.fetch(server.url + "/m.gguf", partial)
    assert (got.size_bytes, got.sha256) == (len(DATA), SHA256)


def test_a_body_of_unknown_length_that_ends_early_is_gone_on_with(
    server: FileServer, partial: Path, fetcher: HttpFetcher
) -> None:
    fault = Fault(no_length=True, ignore_range=True, cut_after=1_000_000)
    server.fail("/m.gguf", fault)
    got = fetcher.fetch(server.url + "/m.gguf", partial, expected_size=len(DATA))
    assert got.sha256 == SHA256
    assert server.requests[1].range_start == 1_000_000


def test_a_length_that_promises_more_than_there_is(
    server: FileServer, partial: Path, fetcher: HttpFetcher
) -> None:
    """The claimed rest is asked for once more; the answer tells the true size."""
    server.fail("/m.gguf", Fault(more_length=1000, ignore_range=True))
    got = fetcher.fetch(server.url + "/m.gguf", partial, sha256=SHA256)
    assert got.sha256 == SHA256
    assert partial.read_bytes() == DATA


def test_a_server_that_forgets_ranges_midway_starts_over(
    server: FileServer, partial: Path, fetcher: HttpFetcher
) -> None:
    server.fail("/m.gguf", Fault(cut_after=1_000_000))
    server.fail("/m.gguf", Fault(ignore_range=True), times=-1)
    told: list[int] = []
    got = fetcher.fetch(server.url + "/m.gguf", partial, advance=told.append)
    assert partial.read_bytes() == DATA
    assert "started over" in got.notes[0] and "resume" in got.notes[0]
    assert sum(told) == len(DATA)


def test_a_server_without_ranges_that_cuts_every_time_is_given_up(
    server: FileServer, partial: Path, fetcher: HttpFetcher
) -> None:
    server.fail("/m.gguf", Fault(ignore_range=True, cut_after=1_000_000), times=-1)
    with pytest.raises(SourceFailed):
        fetcher.fetch(server.url + "/m.gguf", partial)
    assert len(server.requests) < 30


def test_content_that_changes_midway_starts_over(
    server: FileServer, partial: Path, fetcher: HttpFetcher
) -> None:
    other = DATA[::-1]
    server.fail("/m.gguf", Fault(cut_after=1_000_000, etag="zero"))
    server.add("/m.gguf", other, etag="one")
    got = fetcher.fetch(server.url + "/m.gguf", partial)
    assert partial.read_bytes() == other
    assert "changed at its source" in got.notes[0]


def test_another_etag_for_the_same_digest_is_the_same_file(
    server: FileServer, partial: Path, fetcher: HttpFetcher
) -> None:
    """Content delivery networks answer from several places, each with its own etags."""
    server.fail("/m.gguf", Fault(cut_after=1_000_000, etag="zero"))
    got = fetcher.fetch(server.url + "/m.gguf", partial, sha256=SHA256)
    assert got.notes == ()
    assert server.served_bytes() == len(DATA)


def test_wrong_bytes_are_deleted(server: FileServer, partial: Path, fetcher: HttpFetcher) -> None:
    server.fail("/m.gguf", Fault(wrong_bytes=True))
    with pytest.raises(ChecksumMismatch) as caught:
        fetcher.fetch(server.url + "/m.gguf", partial, sha256=SHA256)
    assert caught.value.exit_code == 7
    assert SHA256 in caught.value.message
    assert not partial.exists()
    assert not journal_of(partial).exists()


def test_a_size_that_is_not_the_published_one(
    server: FileServer, partial: Path, fetcher: HttpFetcher
) -> None:
    with pytest.raises(ChecksumMismatch, match=r"3000000.*2999999"):
        fetcher.fetch(server.url + "/m.gguf", partial, expected_size=len(DATA) - 1)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AccessDenied),
        (403, AccessDenied),
        (404, SourceNotFound),
        (410, SourceNotFound),
        (400, SourceFailed),
    ],
)
def test_refusals_are_not_repeated(
    server: FileServer,
    partial: Path,
    fetcher: HttpFetcher,
    status: int,
    error: type[Exception],
) -> None:
    server.fail("/m.gguf", Fault(status=status), times=-1)
    with pytest.raises(error):
        fetcher.fetch(server.url + "/m.gguf", partial)
    assert len(server.requests) == 1


def test_patience_ends(server: FileServer, partial: Path) -> None:
    server.fail("/m.gguf", Fault(status=503), times=-1)
    patience = Patience(attempts=4, first_wait_s=0.01, jitter=0)
    started = time.monotonic()
    with pytest.raises(SourceFailed, match="503"):
        HttpFetcher(patience=patience).fetch(server.url + "/m.gguf", partial)
    assert len(server.requests) == 4
    assert time.monotonic() - started >= 0.01 + 0.02 + 0.04


def test_progress_renews_the_patience(server: FileServer, partial: Path) -> None:
    server.fail("/m.gguf", Fault(cut_after=200_000), times=12)
    patience = Patience(attempts=2, first_wait_s=0.01)
    got = HttpFetcher(patience=patience).fetch(server.url + "/m.gguf", partial)
    assert got.sha256 == SHA256


def test_retry_after_is_honoured_within_bounds(server: FileServer, partial: Path) -> None:
    server.fail("/m.gguf", Fault(status=429, headers={"Retry-After": "1"}))
    server.fail("/m.gguf", Fault(status=429, headers={"Retry-After": "86400"}))
    patience = Patience(first_wait_s=0.01, longest_retry_after_s=1.2)
    started = time.monotonic()
    HttpFetcher(patience=patience).fetch(server.url + "/m.gguf", partial)
    assert 2.2 <= time.monotonic() - started < 6


def test_nobody_there(partial: Path, fetcher: HttpFetcher) -> None:
    with FileServer() as server:
        url = server.url
    with pytest.raises(SourceUnreachable, match=r"127\.0\.0\.1.*cannot be reached"):
        fetcher.fetch(url + "/m.gguf", partial)
    with pytest.raises(SourceUnreachable, match="cannot be found"):
        fetcher.fetch("http://no-such-host.invalid/m.gguf", partial)


def test_a_packed_answer_is_no_file(
    server: FileServer, partial: Path, fetcher: HttpFetcher
) -> None:
    server.fail("/m.gguf", Fault(content_encoding="gzip"))
    with pytest.raises(SourceFailed, match="gzip"):
        fetcher.fetch(server.url + "/m.gguf", partial)
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_a_page_instead_of_http(partial: Path, tmp_path: Path, fetcher: HttpFetcher) -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            for _ in range(10):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        threading.Thread(target=talk, daemon=True).start()
        port = listener.getsockname()[1]
        with pytest.raises(SourceFailed, match="does not speak HTTP"):
            fetcher.fetch(f"http://127.0.0.1:{port}/m", partial)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_cannot_be_written(
    server: FileServer, tmp_path: Path, fetcher: HttpFetcher
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(HomeUnwritable, match="cannot be written"):
        fetcher.fetch(server.url + "/m.gguf", locked / "m.part")


def test_a_file_where_the_folder_should_be(
    server: FileServer, tmp_path: Path, fetcher: HttpFetcher
) -> None:
    (tmp_path / "partial").write_text("in the way")
    with pytest.raises(HomeUnwritable, match="cannot be written"):
        fetcher.fetch(server.url + "/m.gguf", tmp_path / "partial" / "m.part")
