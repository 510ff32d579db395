"""Comparing two files context by context, and the three texts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from localllm.quantize.size.judge import change
from localllm.quantize.size.text import texts_for
from localllm.texts import calibration_text, evaluation_text


def test_the_change_is_of_the_means_and_paired() -> None:
    """Contexts differ by far more than the files do: unpaired, nothing could be said."""
    rng = np.random.default_rng(1)
    theirs = rng.lognormal(-4, 1.0, 40)
    ours = theirs * rng.normal(0.8, 0.02, 40)
    found = change(ours.tolist(), theirs.tolist())
    assert found.relative == pytest.approx(ours.mean() / theirs.mean() - 1)
    assert found.low is not None
    assert found.high is not None
    assert -0.23 < found.low < found.relative < found.high < -0.17


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        theirs = rng.lognormal(-4, 0.7, 32)
        ours = 0.9 * theirs * rng.lognormal(-0.02, 0.2, 32)  # the ratio of means is 0.9
        found = change(ours.tolist(), theirs.tolist())
        assert found.low is not None
        assert found.high is not None
        held += found.low <= -0.1 <= found.high
    assert held >= 175  # 95 % of 200 is 190; resampling 32 falls a little short of it


def test_few_contexts_have_no_interval_and_nothing_is_no_change() -> None:
    assert change([1.0, 2.0], [2.0, 4.0]).relative == -0.5
    assert change([1.0, 2.0], [2.0, 4.0]).low is None
    assert change([0.0] * 9, [0.0] * 9).relative == 0.0


def test_the_texts_share_nothing() -> None:
    texts = texts_for([])
    assert texts.judge.content == evaluation_text()
    assert texts.search.content == calibration_text()
    for part in (texts.search, texts.judge):
        assert part.sha256 == hashlib.sha256(part.content.encode()).hexdigest()
    for paragraph in texts.judge.content.split("\n\n"):
        if len(paragraph) > 200:
            assert paragraph not in texts.search.content


def test_an_own_text_is_searched_with_and_judges_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("eins zwei drei")
    (tmp_path / "b.txt").write_text("vier")
    texts = texts_for([tmp_path / "a.txt", tmp_path / "b.txt"])
    assert texts.search.content == "eins zwei drei\nvier"
    assert texts.search.name == "a.txt + b.txt"
    assert texts.judge.content == evaluation_text()
