"""Cues, scripts, words and the sparse solver, against values worked out apart."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from localllm.route.text.cues import CUES, READ_CHARS, cues, read, script
from localllm.route.text.load import LoadScale
from localllm.route.text.sparse import Sparse, ridge
from localllm.route.text.words import MAX_TERM_CHARS, Vocabulary, terms_of


def test_the_answers_to_choose_from_are_cut_off() -> None:
    asked = "What is 2 + 2?"
    reading = read(f"{asked}\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:")
    assert (reading.question, reading.choices, reading.form) == (asked, True, "choices/latin")
    assert read(f"{asked}\n(A) 3\n(B) 4").question == asked


@pytest.mark.parametrize("prompt", ["A. Smith wrote it.", "Plan:\nB. first\nC. then", "x\nA. one"])
def test_a_letter_alone_is_no_choice(prompt: str) -> None:
    assert not read(prompt).choices


def test_cues_are_logarithms_of_counts() -> None:
    found = dict(
        zip(CUES, cues(read("If Ann, 12, is twice as old as 6 is, what is 12%?")), strict=True)
    )
    assert found["numbers"] == pytest.approx(math.log1p(3))
    assert found["different_numbers"] == pytest.approx(math.log1p(2))
    assert found["commas"] == pytest.approx(math.log1p(3))
    assert found["conditions"] == pytest.approx(math.log1p(1))
    assert found["comparisons"] == pytest.approx(math.log1p(1))
    assert found["ratios"] == pytest.approx(math.log1p(1))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("plain English", "latin"), ("déjà vu", "latin"), ("12 + 3 = ?", "latin"), ("", "latin"),
        ("今日は天気がいいです", "japanese"), ("今天天气很好", "han"), ("안녕하세요", "hangul"),
        ("Привет, как дела", "cyrillic"), ("مرحبا", "arabic"), ("नमस्ते", "indic"),
    ],
)  # fmt: skip
def test_scripts(text: str, name: str) -> None:
    assert script(text) == name


def test_a_megabyte_is_read_at_its_two_ends_and_quickly() -> None:
    prompt = "start " + "word, and 12 more; " * 60_000 + " the end"
    started = time.monotonic()
    reading = read(prompt)
    cues(reading)
    assert time.monotonic() - started < 5
    assert len(reading.text) == READ_CHARS + 1
    assert reading.text.startswith("start") and reading.text.endswith("the end")


def test_a_cue_that_never_varied_says_nothing_and_an_absurd_one_is_cut() -> None:
    readings = [read("one two three"), read("four five sixx")]
    scale = LoadScale.learn(readings)
    shares = dict(zip(CUES, scale.shares(read("word " * 4000 + "12 % 3, if")), strict=True))
    assert shares["numbers"] == 0.0
    assert max(map(abs, shares.values())) <= 3 / len(CUES)


def test_weights_are_those_of_the_textbook() -> None:
    texts = ["red fox", "red fox", "red hen"]
    vocabulary, rows = Vocabulary.learn(texts)
    assert vocabulary.terms == ("fox", "red", "red fox")
    assert vocabulary.rarity == pytest.approx([math.log(4 / 3) + 1, 1.0, math.log(4 / 3) + 1])
    columns, values = vocabulary.row("Red red FOX, unknown")
    raw = np.array([vocabulary.rarity[0], 1 + math.log(2), vocabulary.rarity[2]])
    assert columns.tolist() == [0, 1, 2]
    assert values == pytest.approx(raw / np.linalg.norm(raw))
    assert rows.shape == (3, 3) and rows.row.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_terms_of_languages_without_spaces_and_of_rubbish() -> None:
    assert terms_of("猫が好き")[:4] == ["猫", "が", "好", "き"]
    assert terms_of("x" * (MAX_TERM_CHARS + 1)) == []
    assert terms_of("snake_case can't") == [
        "snake", "case", "can", "t", "snake case", "case can", "can t",
    ]  # fmt: skip


def test_ridge_agrees_with_the_normal_equations() -> None:
    random = np.random.default_rng(1)
    dense = random.normal(size=(30, 12)) * (random.random((30, 12)) < 0.3)
    target = random.normal(size=30)
    matrix = Sparse.stack([(np.flatnonzero(row), row[np.flatnonzero(row)]) for row in dense], 12)
    exact = np.linalg.solve(dense.T @ dense + 2 * np.eye(12), dense.T @ target)
    assert ridge(matrix, target, 2.0) == pytest.approx(exact, abs=2e-3)
    assert matrix.group_sums(np.arange(30) % 2, 2) == pytest.approx(
        np.stack([dense[::2].sum(0), dense[1::2].sum(0)])
    )
