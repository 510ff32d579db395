"""What is kept back, what is refused, and that nothing of the one leaks into the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

from localllm.errors import DamagedFile, UsageProblem
from localllm.finetune.data import DataSpec, open_data
from localllm.finetune.scratch.corpus import DROPPED, HELD, TRAIN, Corpus, look
from localllm.finetune.scratch.encode import rows_of
from localllm.finetune.scratch.ready import LEFT, thin
from localllm.finetune.scratch.recipe import TrainRecipe
from localllm.registry import Registry
from localllm.ui import Silent
from tests.finetune.scratch.conftest import toy


def seen(path: Path, registry: Registry, **named: Any) -> Corpus:
    spec = DataSpec((str(path),), format=named.pop("format", None))
    return look(open_data(spec, registry=registry), TrainRecipe(**named), Silent())


def documents(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        (folder / f"{i:03}.txt").write_text(toy(30, seed=i), "utf-8")
    return folder


def test_of_one_document_sections_are_kept_back_and_nothing_is_lost(
    text: Path, registry: Registry
) -> None:
    corpus = seen(text, registry, held_out="10%")
    assert corpus.section is not None
    order = sorted(
        [*corpus.parts(TRAIN), *corpus.parts(HELD)], key=lambda part: part.unit
    )  # fmt: skip
    whole = "".join(part.text for part in order)
    assert whole == text.read_text("utf-8").removesuffix("\n")
    assert [part.unit for part in order] == list(range(len(order)))
    assert [part.begins for part in order] == [True] + [False] * (len(order) - 1)
    assert [part.ends for part in order] == [False] * (len(order) - 1) + [True]
    held = corpus.bytes_of(HELD)
    assert 0.04 < held / corpus.sizes.sum() < 0.16
    assert all(part.text.endswith("\n") for part in order[:-1])
    # drawn from all over, not one end
    places = [part.unit for part in corpus.parts(HELD)]
    assert max(places) - min(places) > len(order) / 3


def test_documents_are_kept_back_whole_and_those_that_say_the_same_together(
    tmp_path: Path, registry: Registry
) -> None:
    folder = documents(tmp_path / "texts", 40)
    for i in range(10):
        copy = folder / f"copy-{i:03}.txt"
        copy.write_text((folder / f"{i:03}.txt").read_text("utf-8").upper(), "utf-8")
    kept = seen(folder, registry, held_out="20", duplicates="keep")
    assert kept.section is None
    train = {" ".join(part.text.lower().split()) for part in kept.parts(TRAIN)}
    held = {" ".join(part.text.lower().split()) for part in kept.parts(HELD)}
    assert held and train and not train & held
    assert kept.count(HELD) <= 20
    dropped = seen(folder, registry)
    assert dropped.count(DROPPED) == 10
    assert dropped.sha256 == kept.sha256
    other = seen(folder, registry, seed=5)
    assert [p.unit for p in other.parts(HELD)] != [p.unit for p in dropped.parts(HELD)]
    again = seen(folder, registry)
    assert np.array_equal(again.fates, dropped.fates)


def test_more_text_than_the_time_for_it_is_drawn_from(tmp_path: Path, registry: Registry) -> None:
    corpus = seen(documents(tmp_path / "texts", 60), registry)
    total = corpus.bytes_of(TRAIN)
    less = thin(corpus, total // 3, seed=1)
    assert less.bytes_of(TRAIN) == pytest.approx(total / 3, rel=0.2)
    assert less.bytes_of(TRAIN) + less.bytes_of(LEFT) == total
    assert less.bytes_of(HELD) == corpus.bytes_of(HELD)
    # a run that is gone on with knows how much there was, and draws the same
    assert np.array_equal(thin(corpus, less.bytes_of(TRAIN), seed=1).fates, less.fates)
    assert thin(corpus, total, seed=1) is corpus


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"", UsageProblem, "at least 15.6 KiB"),
        (b"word " * 100, UsageProblem, "the data is 500 B of text"),
        (bytes(range(256)) * 400, DamagedFile, "could be read"),
        (b"\xff\xfe" + "wide".encode("utf-16-le") * 9000, DamagedFile, "UTF-16"),
        (b"%PDF-1.7 " + b"x" * 99999, DamagedFile, "a PDF"),
        ((b"ok \xff\n") * 9000, DamagedFile, "is no UTF-8"),
    ],
    ids=["empty", "little", "binary", "wide", "pdf", "latin-1"],
)
def test_what_no_model_can_be_made_of(
    tmp_path: Path, registry: Registry, content: bytes, error: type[Exception], said: str
) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(content)
    with pytest.raises(error, match=said):
        seen(path, registry)


def test_lines_that_are_no_text_are_left_out_and_told(tmp_path: Path, registry: Registry) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(toy(500).encode() + b"broken \xff line\nNUL \0 line\n" + toy(500, 1).encode())
    corpus = seen(path, registry)
    assert corpus.n_bad == 2
    whole = "".join(part.text for part in (*corpus.parts(TRAIN), *corpus.parts(HELD)))
    assert "broken" not in whole and "NUL" not in whole
    with pytest.raises(DamagedFile, match="line 501"):
        seen(path, registry, bad_rows="error")


def test_one_huge_line_is_cut_where_words_begin(tmp_path: Path, registry: Registry) -> None:
    path = tmp_path / "line.txt"
    path.write_text(toy(26_000).replace("\n", " "), "utf-8")
    corpus = seen(path, registry)
    assert corpus.count(HELD) >= 1 and corpus.count(TRAIN) >= 1
    parts = sorted([*corpus.parts(TRAIN), *corpus.parts(HELD)], key=lambda part: part.unit)
    assert "".join(part.text for part in parts) == path.read_text("utf-8")


def test_one_short_line_cannot_be_parted(tmp_path: Path, registry: Registry) -> None:
    path = tmp_path / "line.txt"
    path.write_text("word " * 9000, "utf-8")
    with pytest.raises(UsageProblem, match="cannot be parted"):
        seen(path, registry)


def test_what_says_the_same_again_and_again_is_learned_from(
    tmp_path: Path, registry: Registry
) -> None:
    path = tmp_path / "again.txt"
    path.write_text("the same line again\n" * 20_000, "utf-8")
    corpus = seen(path, registry)
    assert 0 < corpus.bytes_of(HELD) <= 0.05 * corpus.sizes.sum()
    folder = documents(tmp_path / "texts", 40)
    (folder / "huge.txt").write_text(toy(9000, seed=99), "utf-8")
    for seed in range(4):
        found = seen(folder, registry, seed=seed)
        assert 0 < found.bytes_of(HELD) <= 0.05 * found.sizes.sum()
        assert found.section is None


def test_preferences_teach_no_language(tmp_path: Path, registry: Registry) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "p", "chosen": "yes" * 9, "rejected": "no" * 9}
    path.write_text("".join(json.dumps(row) + "\n" for _ in range(900)), "utf-8")
    with pytest.raises(UsageProblem, match="preference pairs"):
        seen(path, registry)


def test_rows_hold_every_example_once_and_are_nearly_full() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 65 + 1, 2000)
    rows = rows_of(lengths, 65)
    assert sorted(np.concatenate(rows).tolist()) == list(range(2000))
    sizes = [int((lengths[row] - 1).sum()) for row in rows]
    assert max(sizes) <= 65
    assert sum(sizes) / (65 * len(rows)) > 0.97
