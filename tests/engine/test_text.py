"""From token bytes to text that may be shown."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.text import StopMatcher, Utf8Assembler


def cuts(raw: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(raw) + 1) for place in places} | {0, len(raw)})
    return [raw[a:b] for a, b in pairwise(ends)]


@given(st.text(), st.lists(st.integers(min_value=0)))
def test_any_cut_of_any_text_gives_it_back_in_whole_characters(
    text: str, places: list[int]
) -> None:
    assembler = Utf8Assembler()
    shown = [assembler.feed(part) for part in cuts(text.encode("utf-8"), places)]
    assert "".join(shown) == text
    assert "\ufffd" not in "".join(shown).replace("\ufffd" * text.count("\ufffd"), "")


@given(st.binary(), st.lists(st.integers(min_value=0)))
def test_any_bytes_give_what_python_decodes_but_for_an_unfinished_end(
    raw: bytes, places: list[int]
) -> None:
    assembler = Utf8Assembler()
    shown = "".join(assembler.feed(part) for part in cuts(raw, places))
    whole = raw.decode("utf-8", "replace")
    assert whole.startswith(shown)
    assert whole[len(shown) :] in ("", "\ufffd")


def test_an_emoji_comes_with_its_last_byte() -> None:
    assembler = Utf8Assembler()
    assert [assembler.feed(bytes([byte])) for byte in "👍".encode()] == ["", "", "", "👍"]


def run(stops: list[str], parts: list[str]) -> tuple[str, bool, list[str]]:
    matcher = StopMatcher(stops)
    shown = [matcher.feed(part) for part in parts]
    return "".join(shown) + matcher.finish(), matcher.stopped, shown


def test_a_stop_string_over_piece_borders_is_never_shown() -> None:
    text, stopped, shown = run(["\nUser:"], ["Hello", "\n", "Us", "er", ":", " more"])
    assert (text, stopped) == ("Hello", True)
    assert shown == ["Hello", "", "", "", "", ""]


def test_a_false_start_is_shown_when_it_is_known_to_be_one() -> None:
    text, stopped, shown = run(["END"], ["a", "E", "N", "d"])
    assert (text, stopped, shown) == ("aENd", False, ["a", "", "", "ENd"])


def test_what_is_held_at_the_end_is_shown() -> None:
    assert run(["END"], ["a", "EN"])[:2] == ("aEN", False)


def test_the_earliest_stop_wins() -> None:
    assert run(["world", "o w"], ["hello world"])[:2] == ("hell", True)


def test_empty_stop_strings_stop_nothing() -> None:
    assert run(["", ""], ["hello"])[:2] == ("hello", False)


@given(
    st.text(alphabet="ab", max_size=30),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(min_value=0)),
)
def test_equals_a_search_in_the_whole_text(text: str, stops: list[str], places: list[int]) -> None:
    parts = [part.decode() for part in cuts(text.encode(), places)]
    # the stream stops at the match that is complete first; at one border the earliest start
    matcher, shown, seen = StopMatcher(stops), "", ""
    for part in parts:
        shown += matcher.feed(part)
        seen += part
        if matcher.stopped:
            break
    starts = [at for at in (seen.find(stop) for stop in stops) if at >= 0]
    assert matcher.stopped == bool(starts)
    if starts:
        assert shown == seen[: min(starts)]
    else:
        assert shown + matcher.finish() == text
