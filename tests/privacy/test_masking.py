"""Masked and restored: nothing lost, nothing shown, whatever the model makes of a placeholder."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.privacy import Finding, Kind, Masker, find, mask

TEXT = "Mail jane@example.com or bob@example.org; my card is 4111 1111 1111 1111."


def masked_text(text: str) -> str:
    return mask(text, find(text)).text


def test_placeholders_are_numbered_by_kind_in_order() -> None:
    assert masked_text(TEXT) == "Mail <EMAIL_1> or <EMAIL_2>; my card is <CARD_1>."
    assert (
        mask(TEXT, find(TEXT)).restore("<CARD_1> <EMAIL_2>")
        == "4111 1111 1111 1111 bob@example.org"
    )


def test_the_same_value_has_the_same_placeholder_and_its_spellings_the_same_number() -> None:
    text = (
        "a@example.com, a@example.com and A@Example.com; "
        "電話 090-1234-5678 電話 ０９０－１２３４－５６７８"
    )
    hidden = mask(text, find(text))
    assert hidden.text == "<EMAIL_1>, <EMAIL_1> and <EMAIL_1b>; 電話 <PHONE_1> 電話 <PHONE_1b>"
    assert hidden.restore(hidden.text) == text


def test_passwords_that_differ_in_case_are_two() -> None:
    assert masked_text('password="Abcd1234" password="abcd1234"').count("<PASSWORD_2>") == 1


@pytest.mark.parametrize(
    "written",
    [
        "<EMAIL_1>", "<email_1>", "<Email_1>", "< EMAIL_1 >", "<EMAIL 1>", "<EMAIL-1>", "<EMAIL1>",
        "EMAIL_1",
        "&lt;EMAIL_1&gt;", r"\<EMAIL\_1\>", r"\u003cEMAIL_1\u003e", "＜EMAIL_1＞", "＜EMAIL＿１＞",
        "〈EMAIL_1〉",
    ],
)  # fmt: skip
def test_placeholders_are_restored_however_a_model_writes_them(written: str) -> None:
    hidden = mask(TEXT, find(TEXT))
    assert hidden.restore(f"to {written}.") == "to jane@example.com."
    assert hidden.restore(f"「{written}」") == "「jane@example.com」"


@pytest.mark.parametrize(
    "other",
    [
        "<EMAIL_3>",
        "EMAIL_12",
        "email_1",
        "MY_EMAIL_1",
        "EMAIL_1x",
        "<EMAIL_>",
        "<EMAIL_1",
        "EMAIL 1",
    ],
)
def test_what_is_no_placeholder_of_ours_stays(other: str) -> None:
    answer = f"a {other} b" if other != "<EMAIL_1" else "a <PHONE_1 b"
    assert mask(TEXT, find(TEXT)).restore(answer) == answer


def test_a_placeholder_in_the_prompt_is_not_restored_and_not_taken() -> None:
    text = "What does <EMAIL_1> mean, and email_2 and <card 1>? Ask jane@example.com."
    hidden = mask(text, find(text))
    assert "<EMAIL_1>" in hidden.text and "jane" not in hidden.text
    assert hidden.restore(hidden.text) == text
    assert hidden.restore("<EMAIL_1> is a placeholder") == "<EMAIL_1> is a placeholder"


def test_one_of_our_placeholders_in_a_later_turn_means_itself() -> None:
    masker = Masker()
    first = masker.mask("jane@example.com", find("jane@example.com"))
    again = "You wrote <EMAIL_1>; and jane@example.com?"
    second = masker.mask(again, find(again))
    assert second.text == "You wrote <TEXT_1>; and <EMAIL_1>?"
    assert masker.restore(second.text) == again
    assert masker.restore(first.text) == "jane@example.com"


def test_a_conversation_keeps_its_placeholders() -> None:
    masker = Masker()
    for text in ("a@example.com", "b@example.com then a@example.com"):
        hidden = masker.mask(text, find(text))
    assert hidden.text == "<EMAIL_2> then <EMAIL_1>"


def test_a_value_inside_json_is_escaped() -> None:
    value = 'say "hi"\\now'
    masker = Masker()
    masker.mask(value, [Finding(Kind.PASSWORD, 0, len(value), 0.9, "test")])
    restorer = masker.restorer(json_text=True)
    answer = restorer.feed('{"to": "<PASS') + restorer.feed('WORD_1>"}') + restorer.finish()
    assert json.loads(answer) == {"to": value}


def test_nothing_of_the_data_is_in_any_repr() -> None:
    hidden = mask(TEXT, find(TEXT))
    shown = f"{hidden!r} {hidden} {hidden.restorer()!r} {hidden.__dict__!r} {Masker()!r}"
    assert "jane" not in shown and "4111" not in shown


def test_a_stream_gives_out_what_cannot_be_a_placeholder_at_once() -> None:
    restorer = mask(TEXT, find(TEXT)).restorer()
    assert restorer.feed("Dear friend, ") == "Dear friend, "
    assert restorer.feed("a < b, x<") == "a < b, x"
    assert restorer.feed("y> ") == "<y> "
    assert restorer.feed("<EMA") == ""
    assert restorer.feed("IL_2") == ""
    assert restorer.feed("> and EMAIL_1") == "bob@example.org and "
    assert restorer.feed(".") == "jane@example.com."
    assert restorer.feed("end <EMAIL_1") == "end "
    assert restorer.finish() == "<jane@example.com"


PIECES = st.sampled_from(
    ["<", ">", "＜", "&lt;", "&gt;", "\\", "\\u003c", "\\u003e", "EMAIL", "MY_NUMBER", "email", "_",
     " ", "1", "2", "12", "b",
     "<EMAIL_1>", "<EMAIL_1b>", "EMAIL_1", "< my number 1 >", "<TEXT_1>", "x", "jane@example.com ",
     "JANE@example.com ", "マイナンバー 123456789018 ", "。", "E", "MY"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join), st.lists(PIECES, max_size=20).map("".join))
@settings(max_examples=400, deadline=None)
def test_restoring_what_was_masked_gives_the_text_back(first: str, second: str) -> None:
    masker = Masker()
    for text in (first, second, first):
        assert masker.restore(masker.mask(text, find(text)).text) == text


@given(st.lists(PIECES, max_size=30).map("".join), st.lists(st.integers(0, 120), max_size=12))
@settings(max_examples=600, deadline=None)
def test_the_cuts_of_a_stream_do_not_matter(answer: str, cuts: list[int]) -> None:
    known = "jane@example.com JANE@example.com マイナンバー 123456789018"
    hidden = mask(known, find(known))
    restorer = hidden.restorer()
    edges = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    streamed = "".join(restorer.feed(answer[a:b]) for a, b in itertools.pairwise(edges))
    assert streamed + restorer.finish() == hidden.restore(answer)
