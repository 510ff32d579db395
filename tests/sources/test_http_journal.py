"""The parts of the downloader that are plain arithmetic: byte ranges, journals, patience."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import SourceFailed, SourceUnreachable
from localllm.sources.base import journal_of
from localllm.sources.journal import Extents, Identity, Journal
from localllm.sources.ledger import Ledger, Tuning
from localllm.sources.retry import Patience, Transient, persist, retry_after_s

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


@given(RANGES)
def test_extents_are_the_set_of_their_bytes(ranges: list[tuple[int, int]]) -> None:
    extents = Extents(ranges)
    bytes_there = {byte for start, end in ranges for byte in range(start, end)}
    listed = list(extents)
    assert {byte for start, end in listed for byte in range(start, end)} == bytes_there
    assert all(end < start for (_, end), (start, _) in pairwise(listed))
    assert extents.total == len(bytes_there)
    assert extents.prefix == next(n for n in range(100) if n not in bytes_there)
    assert set(extents.clipped(30)) == set(Extents((s, min(e, 30)) for s, e in ranges))


@given(RANGES, st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_claims_never_overlap_and_cover_what_is_missing(
    done: list[tuple[int, int]], moves: list[int]
) -> None:
    """Connections come, write, and give up in any order: every byte is brought exactly once."""
    ledger = Ledger(Path("x"), Identity("u", 60), Extents(done).clipped(60), Tuning(piece_bytes=7))
    ledger.note = lambda: None  # type: ignore[method-assign]
    ledger.share()
    missing = 60 - ledger.done_bytes
    claims = []
    brought = 0
    for move in [*moves, *[1, 0] * 200]:
        if move == 0 and (claim := ledger.claim(wait=False)):
            claims.append(claim)
        elif claims and move == 3:
            ledger.release(claims.pop(0))
        elif claims:
            claim = claims[-1]
            count = min(move, claim.end - claim.at)
            brought += count
            if not ledger.wrote(claim, count) or claim.at == claim.end:
                ledger.release(claims.pop())
    assert ledger.complete and ledger.finished.is_set()
    assert brought == missing


def test_a_journal_survives_its_way_through_the_disk(tmp_path: Path) -> None:
    identity = Identity("https://host/モデル", 123, "ab" * 32, '"tag"')
    journal = Journal(identity, ((0, 5), (7, 9)))
    path = journal_of(tmp_path / "a.part")
    journal.save(path)
    assert Journal.load(path) == journal
    assert [p.name for p in tmp_path.iterdir()] == ["a.part.json"]


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        (Identity("u", 5, "aa", "e"), Identity("v", 5, "aa", "f"), None),
        (Identity("u", 5, "aa"), Identity("u", 5, "bb"), "digest"),
        (Identity("u", 5, "aa"), Identity("u", 6, "aa"), "size"),
        (Identity("u", 5, None, "e"), Identity("u", None, None, None), None),
        (Identity("u", 5, None, "e"), Identity("u", 5, None, "f"), "changed"),
        (Identity("u", 5, None, "e"), Identity("v", 5, None, "e"), "another address"),
        (Identity("u", 5), Identity("u", 5, "aa"), None),
    ],
)
def test_when_a_partial_is_of_another_file(
    before: Identity, now: Identity, reason: str | None
) -> None:
    conflict = before.conflict(now)
    assert conflict is None if reason is None else reason in str(conflict)


def test_waits_grow_are_bounded_and_never_undercut_the_server() -> None:
    patience = Patience(first_wait_s=1, longest_wait_s=8, jitter=0, longest_retry_after_s=20)
    assert [patience.wait_s(n) for n in range(1, 7)] == [1, 2, 4, 8, 8, 8]
    assert patience.wait_s(1, retry_after_s=5) == 5
    assert patience.wait_s(4, retry_after_s=5) == 8
    assert patience.wait_s(1, retry_after_s=1e9) == 20
    spread = {Patience(first_wait_s=1, jitter=0.5).wait_s(1) for _ in range(50)}
    assert len(spread) > 10 and all(0.5 <= wait <= 1 for wait in spread)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("7") == 7
    soon = retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=60)))
    assert soon is not None and 55 < soon <= 60
    assert retry_after_s(format_datetime(datetime.now(UTC) - timedelta(days=1))) == 0
    assert retry_after_s("soon") is None
    assert retry_after_s(None) is None


def test_nobody_there_is_given_up_sooner_than_a_server_in_trouble() -> None:
    patience = Patience(page_attempts=5, first_attempts=2, first_wait_s=0)
    for answered, tries in ((True, 5), (False, 2)):
        calls: list[float] = []

        def fail(answered: bool = answered, calls: list[float] = calls) -> None:
            calls.append(0)
            raise Transient(SourceUnreachable("gone"), answered=answered)

        with pytest.raises(SourceUnreachable):
            persist(fail, patience, pause=lambda wait: None)
        assert len(calls) == tries


def test_what_no_repetition_mends_is_raised_at_once() -> None:
    calls = []

    def fail() -> None:
        calls.append(0)
        raise SourceFailed("no")

    with pytest.raises(SourceFailed):
        persist(fail, Patience())
    assert len(calls) == 1


def test_who_waits_for_a_range_is_woken_when_another_gives_up() -> None:
    ledger = Ledger(Path("x"), Identity("u", 10), Extents(), Tuning())
    first = ledger.claim(wait=True)
    assert first is not None
    got: list[object] = []
    waiter = threading.Thread(target=lambda: got.append(ledger.claim(wait=True)))
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    ledger.release(first)
    waiter.join(2)
    assert got == [first]
    assert ledger.claim(wait=False) is None
    ledger.stop()
    assert ledger.claim(wait=True) is None
