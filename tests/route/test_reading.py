"""Files in every form that is read, and files in none."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from localllm.errors import DamagedFile, FileGone, UsageProblem
from localllm.route.panel import Panel
from localllm.route.reading.files import read_panel
from localllm.route.reading.jsonl import Labels, read_contrast


def lines(path: Path, *objects: object) -> Path:
    path.write_text("\n".join(json.dumps(item) for item in objects) + "\n", encoding="utf-8")
    return path


def test_every_form_of_json_lines(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        {"prompt": "p1", "outcomes": {"s": 0, "l": True}, "domain": "d", "benchmark": "b"},
        {"prompt": "p2", "s_correct": 1, "l_correct": 0, "s_score": 0.3, "source": "b"},
        {"prompt": "p3", "s_score": 0.25, "l_score": 1},
        {"prompt": "p4", "model_a": "l", "model_b": "s", "winner": "model_a"},
        {"prompt": "p5", "model_a": "l", "model_b": "s", "winner": "tie"},
    )
    panel = read_panel(path)
    assert panel.models == ("s", "l")
    assert panel.quality.tolist() == [[0, 1], [1, 0], [0.25, 1], [0, 1], [0.5, 0.5]]
    assert panel.domains[0] == "d" and panel.benchmarks[:3] == ("b", "b", "")


def test_votes_that_contradict_are_averaged(tmp_path: Path) -> None:
    vote = {"prompt": "p", "model_a": "s", "model_b": "l"}
    path = lines(
        tmp_path / "a.jsonl", *({**vote, "winner": w} for w in ("model_a", "model_b", "l", "l"))
    )
    assert read_panel(path).quality.tolist() == [[0.25, 0.75]]


@pytest.mark.parametrize(
    "line",
    [
        {"outcomes": {"a": 1}},
        {"prompt": "", "outcomes": {"a": 1}},
        {"prompt": 3, "outcomes": {"a": 1}},
        {"prompt": "p"},
        {"prompt": "p", "outcomes": {"a": 7}},
        {"prompt": "p", "outcomes": {"a": "yes"}},
        {"prompt": "p", "outcomes": {"a": float("nan")}},
        {"prompt": "p", "model_a": "x", "model_b": "x", "winner": "x"},
        {"prompt": "p", "model_a": "x", "model_b": "y", "winner": "z"},
        {"prompt": "p", "outcomes": {"a": 1}, "domain": 4},
        [1],
        "text",
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "good", "outcomes": {"a": 1}}, line)
    with pytest.raises(DamagedFile, match="line 2"):
        read_panel(path)


def test_what_is_no_text_no_json_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(DamagedFile, match="UTF-8"):
        read_panel(path)
    path.write_text('{"prompt": ')
    with pytest.raises(DamagedFile, match="JSON"):
        read_panel(path)
    path.write_text("{" * 100_000)
    with pytest.raises(DamagedFile):
        read_panel(path)
    for empty in ("", "\n\n"):
        path.write_text(empty)
        with pytest.raises(UsageProblem):
            read_panel(path)
    with pytest.raises(FileGone):
        read_panel(tmp_path / "none.jsonl")
    with pytest.raises(FileGone):
        read_panel(tmp_path)


def test_a_megabyte_prompt_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = json.dumps({"prompt": "x" * 2**20, "outcomes": {"a": 1, "b": 0}})
    path.write_bytes(b"\xef\xbb\xbf" + row.encode())
    assert len(read_panel(path).prompts[0]) == 2**20


def test_routellm_tables(tmp_path: Path) -> None:
    path = tmp_path / "mmlu_college_biology.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["", "prompt", "vendor/weak", "strong", "strong_response"])
        table.writerow([0, 'What, "exactly"?\nA. x', "True", "False", "long answer"])
        table.writerow([1, "And this?", "False", "True", "another"])
    panel = read_panel(path)
    assert panel.models == ("vendor/weak", "strong")
    assert panel.prompts[0] == 'What, "exactly"?\nA. x'
    assert panel.quality.tolist() == [[1, 0], [0, 1]]
    assert panel.domains == ("college_biology",) * 2 and panel.benchmarks == ("mmlu",) * 2


def test_a_table_without_truth_values(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("prompt,comment\nhello,nice\n")
    with pytest.raises(UsageProblem, match="True and False"):
        read_panel(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DamagedFile):
        read_panel(path)


def test_routellm_judge_scores(tmp_path: Path) -> None:
    row = {"prompt": "p", "gpt4_response": "g", "mixtral_response": "m", "mixtral_score": 2}
    path = lines(tmp_path / "a.jsonl", row, {**row, "prompt": "q", "mixtral_score": "5"})
    panel = read_panel(path)
    assert panel.models == ("mixtral", "gpt4")
    assert panel.quality.tolist() == [[0.25, 1], [1, 1]]
    with pytest.raises(DamagedFile, match="line 1"):
        read_panel(lines(tmp_path / "b.jsonl", {**row, "mixtral_score": 9}))


def test_alpaca_annotations(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    entry = {"instruction": "p", "generator_1": "ref", "generator_2": "new", "dataset": "koala"}
    path.write_text(
        json.dumps(
            [
                {**entry, "preference": 2.0},
                {**entry, "instruction": "q", "preference": 1.25},
                {**entry, "instruction": "r", "preference": None},
                {**entry, "instruction": "s", "preference": -1},
            ],
            indent=1,
        )
    )
    panel = read_panel(path)
    assert panel.models == ("ref", "new") and panel.benchmarks == ("koala", "koala")
    assert panel.quality.tolist() == [[0, 1], [0.75, 0.25]]
    path.write_text(json.dumps([entry]))
    with pytest.raises(DamagedFile, match="entry 0"):
        read_panel(path)


def test_two_models_by_their_fields_and_corrected_labels(tmp_path: Path) -> None:
    plain = {"prompt": "p", "weak_correct": 0, "strong_correct": 1, "source": "mmlu"}
    fixed = {**plain, "prompt": "q", "weak_correct_fix": 1, "strong_correct_fix": 1}
    path = lines(tmp_path / "a.jsonl", plain, fixed)
    labels = Labels("weak_correct_fix", "strong_correct_fix")
    assert read_contrast(path).weak.tolist() == [0, 0]
    assert read_contrast(path, labels, skip_without=True).prompts == ("q",)
    assert read_contrast(path, labels, or_recorded=True).weak.tolist() == [0, 1]
    with pytest.raises(DamagedFile, match="weak_correct_fix"):
        read_contrast(path, labels)


def test_pairs_of_a_panel() -> None:
    quality = np.array([[0.0, 1, np.nan], [1.0, 1, 0]])
    panel = Panel(("p", "q"), ("a", "b", "c"), quality, ("", ""), ("", ""))
    assert panel.contrast("c", "a").prompts == ("q",)
    with pytest.raises(UsageProblem, match="same model"):
        panel.contrast("a", "a")
    with pytest.raises(UsageProblem, match="no model 'z'"):
        panel.contrast("a", "z")
    with pytest.raises(UsageProblem, match="not named"):
        panel.pair()
    two = Panel(("p", "q"), ("a", "b"), quality[:, :2], ("", ""), ("", ""))
    assert two.pair() == ("a", "b")
