"""Prompts alone become training data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from localllm.route.judging import Task, exact, judged
from localllm.route.making import Wish, create, make_spec
from localllm.route.reading.files import read_panel
from tests.conftest import Done
from tests.route.answering import HI, models

Cli = Callable[..., Done]


@pytest.mark.parametrize(("answer", "reference", "right"), [
    ("So it is 1,200.", "1200", 1), ("12 and then 13", "12", 0), ("no number", "3", 0),
    ("The answer is -2.50", "-2.5", 1), ("B. because A is wrong", "B", 1), ("(C)", "c", 1),
    ("A triangle has three sides, so the answer is (C).", "C", 1), ("A.", "A", 1),
    ("(A) because", "A", 1), ("A because", "A", 1), ("B because", "B", 1), ("A\n", "A", 1),
    ("A\nas said", "A", 1), ("Answer: D", "D", 1), ("It is A as in ant", "A", 1),
    ("Take care. A bee is none. D", "D", 1), ("A plan\nA) yes", "A", 1), ("A bee", "A", 0),
    ("A bee", "B", 0), ("It is Paris, of course", "paris", 1), ("Parisian", "Paris", 0),
    ("答えは４２です", "42", 1), ("", "x", 0), ("anything", "", 0),
])  # fmt: skip
def test_against_a_reference(answer: str, reference: str, right: int) -> None:
    assert exact(answer, reference) == right


def test_by_a_judge() -> None:
    asked: list[str] = []

    def says(text: str) -> Callable[[str], str]:
        return lambda question: (asked.append(question), text)[1]

    task = Task("Why?", "Because.")
    assert judged(task, "So.", says("5")) == 1
    assert judged(task, "So.", says(" I say 2/5.")) == 0.25
    assert judged(task, "So.", says("great, 10 of 10")) is None
    assert all(part in asked[0] for part in ("Why?", "Because.", "So."))


@pytest.fixture
def pool(registry: Registry, tmp_path: Path) -> Path:
    models(registry, tmp_path / "staged")
    create(registry, "mine", make_spec(Wish(("small=hi", "big=loop"))))
    lines = [{"prompt": f"question {n}", "answer": HI if n % 2 else "abcabc", "subject": "odd"}
             for n in range(6)]  # fmt: skip
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_members_answer_and_are_compared(cli: Cli, pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    args = ["route", "label", "mine", "--prompts", pool, "--out", out, "-n", "6", "--ctx", "256"]
    done = cli(*args, "--json")
    assert done.exit_code == 0, done
    assert (done.data["n_answers"], done.data["failed"]) == (12, 0)
    assert done.data["quality"] == {"small": 0.0, "big": 0.5}  # "Hi, yo": 6 tokens are too few
    panel = read_panel(out)
    assert panel.models == ("small", "big") and panel.quality.shape == (6, 2)
    assert set(panel.domains) == {"odd"}
    # killed in the middle of a line: the whole ones stay, the rest is done again
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:7]) + lines[7][:20])
    again = cli(*args, "--json")
    assert again.data["n_new"] == 5
    assert sorted(out.read_text().splitlines()) == sorted("".join(lines).splitlines())
    assert cli(*args, "--json").data["n_new"] == 0
    # another model under the same name: its answers are not the first one's
    cli("route", "rm", "mine")
    cli("route", "create", "mine", "--member", "small=noise", "--member", "big=loop")
    other = cli(*args)
    assert other.exit_code == 2
    assert "small was hi" in other.err and "is noise" in other.err


def test_what_cannot_be_judged_is_said(cli: Cli, pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "x"}\n')
    args = ["route", "label", "mine", "--out", out, "-n", "4", "--ctx", "256"]
    none = cli(*args, "--prompts", bare)
    assert none.exit_code == 2 and "--judge" in none.err
    mute = cli(*args, "--prompts", bare, "--judge", "small", "--member", "big", "--json")
    assert mute.exit_code == 1 and mute.data["failed"] == 1  # there is nothing to train on
    assert "gave no number" in mute.json["warnings"][0]
    assert cli(*args, "--prompts", bare, "--judge", "nobody").exit_code == 2
    out.write_text('{"something": "else"}\n')
    assert cli(*args, "--prompts", pool).exit_code == 7


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_disk_that_is_full_and_a_file_without_an_end(cli: Cli, pool: Path) -> None:
    """Reading /dev/full never ends: what is no file is not read for what it has already."""
    done = cli("route", "label", "mine", "--prompts", pool, "--out", "/dev/full", "-n", "4",
               "--ctx", "256")  # fmt: skip
    assert done.exit_code == 1 and "no space left" in done.err
