"""Several connections for one file: only where they help, and their trouble is nobody's."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.sources.http import HttpFetcher
from localllm.sources.ledger import Tuning
from localllm.sources.retry import Patience
from tests.support.http_server import Answer, Fault, FileServer, Request

DATA = random.Random(4).randbytes(32 << 20)
SHA256 = hashlib.sha256(DATA).hexdigest()
EAGER = Tuning(piece_bytes=2 << 20, ramp_s=0.1, connections=8)
HASTE = Patience(first_wait_s=0.01, stall_s=1)
SLOW = Fault(bytes_per_s=16e6)  # each connection, whatever their number


class SignedServer(FileServer):
    """Leads from /file to a signed address on another host, each good for so many requests."""

    def __init__(self) -> None:
        super().__init__()
        self.good_for = 1_000_000
        self.signatures: dict[str, int] = {}

    def respond(self, request: Request) -> Answer:
        if request.path == "/file":
            signature = f"/signed/{len(self.signatures)}"
            self.signatures[signature] = self.good_for
            return Answer.redirect(self.other_url + signature)
        if self.signatures.get(request.path, 0) <= 0:
            return Answer(403, b"Request has expired", ranges=False)
        self.signatures[request.path] -= 1
        return Answer(200, DATA, etag="one")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        running.add("/m", DATA, etag="one")
        yield running


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "m.part"


def test_slow_connections_are_helped_by_others(server: FileServer, partial: Path) -> None:
    server.fail("/m", SLOW, times=-1)
    at_once: list[int] = []

    def advance(count: int) -> None:
        begun = [r for r in server.matching("/m") if r.status == 206]
        at_once.append(sum(0 < r.sent_bytes < r.range_bytes for r in begun))

    got = HttpFetcher(tuning=EAGER).fetch(server.url + "/m", partial, advance=advance)
    assert got.sha256 == SHA256
    assert max(at_once) >= 4
    # What the first had asked for beyond its share may be under way when it is cut short.
    assert server.served_bytes() < len(DATA) + (6 << 20)


def test_a_fast_connection_stays_alone(server: FileServer, partial: Path) -> None:
    tuning = Tuning(piece_bytes=1 << 20, ramp_s=0.01, fast_bps=1.0)
    got = HttpFetcher(tuning=tuning).fetch(server.url + "/m", partial)
    assert got.sha256 == SHA256
    assert len(server.requests) == 1


def test_connections_that_bring_nothing_more_are_not_added(
    server: FileServer, partial: Path
) -> None:
    """Two connections here are together as slow as one: four are not tried."""
    ranges = server.matching

    def shared(request: Request) -> Fault:
        return Fault(bytes_per_s=40e6 if len(ranges()) < 2 else 20e6)

    server.take_fault = shared  # type: ignore[method-assign]
    tuning = Tuning(piece_bytes=64 << 20, ramp_s=0.2, connections=8)
    small = Tuning(piece_bytes=4 << 20, ramp_s=0.2, connections=8)
    HttpFetcher(tuning=tuning).fetch(server.url + "/m", partial)
    assert len(server.requests) == 1  # too little left to share
    partial.unlink()
    server.requests.clear()
    assert HttpFetcher(tuning=small).fetch(server.url + "/m", partial).sha256 == SHA256
    assert len(server.requests) <= 3 + len(DATA) // (4 << 20)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429),
        Fault(status=403),
        Fault(drop=True),
        Fault(ignore_range=True),
        Fault(cut_after=100_000),
        Fault(stall_after=100_000, stall_s=3),
        Fault(etag="another"),
    ],
    ids=lambda fault: repr({k: v for k, v in vars(fault).items() if v})[:40],
)
def test_the_trouble_of_an_added_connection_ends_only_that_one(
    server: FileServer, partial: Path, fault: Fault
) -> None:
    faults = iter([SLOW, fault])  # the second request is the added connection's
    server.take_fault = lambda request: next(faults, SLOW)  # type: ignore[method-assign]
    tuning = Tuning(piece_bytes=8 << 20, ramp_s=0.1, rest_s=0.3, connections=4)
    fetcher = HttpFetcher(tuning=tuning, patience=HASTE)
    got = fetcher.fetch(server.url + "/m", partial, sha256=SHA256)
    assert (got.sha256, got.notes) == (SHA256, ())
    assert partial.read_bytes() == DATA
    assert len(server.requests) > 2


def test_servers_without_ranges_get_one_connection(server: FileServer, partial: Path) -> None:
    server.add("/m", DATA, ranges=False)
    server.fail("/m", Fault(bytes_per_s=30e6), times=-1)
    got = HttpFetcher(tuning=EAGER).fetch(server.url + "/m", partial)
    assert got.sha256 == SHA256
    assert len(server.requests) == 1


def test_a_signed_address_is_used_again_and_renewed_when_it_expires(partial: Path) -> None:
    with SignedServer() as server:
        server.good_for = 5
        server.fail("/signed/*", SLOW, times=-1)
        got = HttpFetcher({"Authorization": "Bearer secret"}, tuning=EAGER, patience=HASTE).fetch(
            server.url + "/file", partial, sha256=SHA256
        )
        assert got.notes == ()
        assert partial.read_bytes() == DATA
        asked = server.matching("/file")
        signed = server.matching("/signed/*")
        assert 2 <= len(asked) < len(signed)
        assert all(r.headers["authorization"] == "Bearer secret" for r in asked)
        assert not any("authorization" in r.headers for r in signed)


def test_long_files_are_asked_for_in_bounded_requests(server: FileServer, partial: Path) -> None:
    """Content delivery networks refuse answers over 50 GB; ranges of such files they serve."""
    tuning = Tuning(request_bytes=10 << 20)
    got = HttpFetcher(tuning=tuning).fetch(server.url + "/m", partial, expected_size=len(DATA))
    assert got.sha256 == SHA256
    assert [r.headers["range"] for r in server.requests] == [
        "bytes=0-10485759",
        "bytes=10485760-20971519",
        "bytes=20971520-31457279",
        "bytes=31457280-33554431",
    ]
