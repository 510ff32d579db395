"""Server-sent events, however they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.endpoints.sse import EventReader, TooLong

# What a stream says, and the data of its events by the standard
CASES = [
    (b"data: a\n\ndata: b\n\n", ["a", "b"]),
    (b"data:a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
    (b"data: a\r\rdata: b\r\r", ["a", "b"]),
    (b"data: one\ndata: two\n\n", ["one\ntwo"]),
    (b": a remark\n\ndata: a\n\n", ["a"]),
    (b"event: x\nid: 7\nretry: 10\ndata: a\n\n", ["a"]),
    (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
    ("data: 日本\n\n".encode(), ["日本"]),
    (b"data:  two spaces\n\n", [" two spaces"]),
    (b"data\n\ndata: a\n\n", ["a"]),
    (b"\n\n\n", []),
    (b"data: cut off", ["cut off"]),
    (b"data: cut off\n", ["cut off"]),
]


def read(pieces: list[bytes]) -> list[str]:
    reader = EventReader(1 << 20)
    found = [text for piece in pieces for text in reader.feed(piece)]
    last = reader.finish()
    return found if last is None else [*found, last]


@pytest.mark.parametrize(("data", "events"), CASES)
def test_whole_and_byte_by_byte(data: bytes, events: list[str]) -> None:
    assert read([data]) == events
    assert read([data[i : i + 1] for i in range(len(data))]) == events


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(CASES) - 1), st.lists(st.integers(0, 40), max_size=6))
def test_cut_anywhere(number: int, cuts: list[int]) -> None:
    data, events = CASES[number]
    at = sorted({min(cut, len(data)) for cut in cuts})
    pieces = [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]
    assert read(pieces) == events


@pytest.mark.parametrize("data", [b"data: " + b"x" * 200, b"data: xxxx\n" * 60])
def test_an_event_without_end_is_too_long(data: bytes) -> None:
    reader = EventReader(100)
    with pytest.raises(TooLong):
        list(reader.feed(data))


def test_a_long_line_in_small_pieces_is_looked_at_once() -> None:
    """A megabyte byte by byte: were each piece to look at all of it, this would take minutes."""
    reader = EventReader(2 << 20)
    for _ in range(1 << 14):
        assert not list(reader.feed(b"x" * 64))
    assert reader._looked == 1 << 20
