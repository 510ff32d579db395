"""What the detectors find and miss on the synthetic set, and on text without data."""

from __future__ import annotations

import json

import pytest

from localllm.privacy import Kind, find
from localllm.texts import calibration
from tests.privacy import corpus
from tests.privacy.scoring import Score, Share, score

SETS = {
    "first": (corpus.positives, corpus.negatives),
    "held out": (corpus.held_out_positives, corpus.held_out_negatives),
    "fresh": (corpus.fresh_positives, corpus.fresh_negatives),
}
# what careless spellings and missing labels cost on the third set
RECALL_FLOORS_OF_FRESH = {Kind.MY_NUMBER: 0.85, Kind.PASSPORT: 0.8, Kind.PASSWORD: 0.85}


@pytest.fixture(scope="module", params=list(SETS))
def scored(request: pytest.FixtureRequest) -> tuple[str, dict[Kind, Score]]:
    made, not_made = SETS[request.param]
    return request.param, score(made() + not_made())[0]


def test_recall_and_precision_stay_above_their_floors(
    scored: tuple[str, dict[Kind, Score]],
) -> None:
    name, scores = scored
    assert set(scores) == set(Kind)
    for kind, found in scores.items():
        floor = RECALL_FLOORS_OF_FRESH.get(kind, 0.95) if name == "fresh" else 0.97
        assert found.recall.total >= 300
        assert found.recall.value >= floor, found
        assert found.precision.value >= 0.93, found


def test_wilson_s_interval_is_that_of_the_textbook() -> None:
    low, high = Share(81, 263).interval  # Newcombe (1998), table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert Share(0, 20).interval[0] == 0.0 and round(Share(0, 20).interval[1], 4) == 0.1611


def test_no_family_of_hard_negatives_fires_often() -> None:
    samples = corpus.negatives()
    families = {sample.family for sample in samples}
    fired = [sample.family for sample in samples if find(sample.text)]
    for family in families:
        share = fired.count(family) / (len(samples) / len(families))
        assert share <= 0.03, (family, share)


def test_half_a_megabyte_of_prose_and_code_in_thirty_languages_has_nothing() -> None:
    text = calibration().content
    assert [text[f.start : f.end] for f in find(text)] == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_text_in_a_json_document_is_found_like_the_text(times: int) -> None:
    for sample in corpus.positives(each=8):
        written = sample.text
        for _ in range(times):
            written = json.dumps({"text": written})
        plain = [one.kind for one in find(sample.text)]
        assert [one.kind for one in find(written)] == plain, sample.text
