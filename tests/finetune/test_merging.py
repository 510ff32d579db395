"""`--merge`: what the result is called, when it is made again, and its gate."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.finetune import merging
from localllm.finetune.merging import is_merged, lost, merged_name
from localllm.finetune.outcome.judge import Judged
from localllm.finetune.outcome.result import BeforeAfter, Tuned, made_before
from localllm.finetune.recipe import Recipe
from localllm.library.describe import loose_model
from localllm.registry import Registry
from tests.conftest import Done
from tests.finetune.conftest import preferences

Tune = Callable[..., Done]
OPTIONS = ["--steps", 8, "--lr", 3e-3, "--samples", 0, "--name", "t:merge"]


@pytest.fixture
def tuned(tiny_gguf: Path, registry: Registry) -> Tuned:
    model = loose_model(tiny_gguf)
    return made_before(model, model, registry)


def with_kept(done: Tuned, kept: float | None, **more: object) -> Tuned:
    return replace(done, merged={"name": "t:m", "type": "Q4_0", "kept": kept, **more})


@pytest.mark.parametrize(("kept", "fails"), [(0.1, True), (0.5, False), (None, False)])
def test_less_than_half_of_the_gain_is_a_failed_gate(
    tuned: Tuned, kept: float | None, fails: bool
) -> None:
    failed = lost(with_kept(tuned, kept))
    assert (failed is not None) is fails
    if failed is not None:
        assert "t:m kept 10%" in failed.message
        assert failed.exit_code == 5
    assert lost(tuned) is None  # nothing was merged


@pytest.mark.parametrize(
    ("tuned_name", "wanted"),
    [
        ("mine", "mine:Q6_K"), ("gemma:pirate", "gemma:pirate-Q6_K"),
        ("gemma:chats-lora", "gemma:chats-Q6_K"), ("a/b", "a/b:Q6_K"),
    ],
)  # fmt: skip
def test_the_merged_model_is_called_after_the_tuned_one(tuned_name: str, wanted: str) -> None:
    assert merged_name(tuned_name, "Q6_K") == wanted


def test_a_failed_gate_fails_again_and_its_merge_is_shown(
    tune: Tune, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_judged", lambda *a: {"loss": 9.0, "kept": 0.1})
    first = tune(*OPTIONS, "--merge", "Q8_0")
    again = tune(*OPTIONS, "--merge", "Q8_0")
    for done in (first, again):
        assert done.exit_code == 5, done
        assert done.json["ok"] is False
        assert "kept 10%" in done.json["error"]["message"]
        assert done.data["merged"]["kept"] == 0.1
        assert done.data["merged"]["name"] == "t:merge-Q8_0"
    assert (first.data["reused"], again.data["reused"]) == (False, True)
    assert registry.resolve("t:merge-Q8_0").file_type == "Q8_0"
    # without --merge there is no gate
    assert tune(*OPTIONS).exit_code == 0


def test_what_was_asked_for_is_what_is_kept(tuned: Tuned, registry: Registry, tune: Tune) -> None:
    known = with_kept(tuned, 0.9, asked="Q4_0")
    done = tune("--steps", 1, "--name", "t:m")  # a model of the merge's name
    assert done.exit_code == 0, done
    assert is_merged(known, Recipe(merge="q4_0"), registry)
    assert not is_merged(known, Recipe(merge="auto"), registry)
    assert not is_merged(known, Recipe(merge="Q6_K"), registry)
    assert not is_merged(with_kept(tuned, 0.9), Recipe(merge="Q4_0"), registry)
    gone = replace(known, merged={**(known.merged or {}), "name": "t:gone"})
    assert not is_merged(gone, Recipe(merge="Q4_0"), registry)


def test_auto_names_the_type_that_it_finds(tune: Tune, registry: Registry) -> None:
    done = tune(*OPTIONS[:-1], "mine", "--merge", "auto")
    assert done.exit_code == 0, done
    merged = done.data["merged"]
    assert merged["asked"] == "AUTO"
    assert merged["name"] == f"mine:{merged['type']}"
    assert registry.resolve("mine").format == "adapter"  # not hidden by what is called after it
    assert registry.resolve(merged["name"]).file_type == merged["type"]
    again = tune(*OPTIONS[:-1], "mine", "--merge", "auto")
    assert again.data["merged"] == merged


def test_pairs_have_no_share_of_their_gain(tune: Tune, tmp_path: Path) -> None:
    pairs = preferences(tmp_path / "pairs.jsonl", 16)
    done = tune(*OPTIONS, "--objective", "orpo", "--merge", "F16", source=pairs)
    assert done.exit_code == 0, done
    # the loss of the chosen answers fell, but that is not what was to be learned
    assert done.data["judged"]["after"]["loss"] < done.data["judged"]["before"]["loss"] - 0.05
    assert done.data["merged"]["loss"] > 0
    assert done.data["merged"]["kept"] is None


def test_hardly_any_gain_has_no_share(tune: Tune) -> None:
    done = tune("--steps", 1, "--lr", 1e-5, "--name", "t:little", "--merge", "F32")
    assert done.exit_code == 0, done
    judged = done.data["judged"]
    assert 0 < judged["before"]["loss"] - judged["after"]["loss"] < 0.05
    assert done.data["merged"]["kept"] is None


@pytest.mark.parametrize(
    ("losses", "preferred", "better"),
    [
        ((2.0, 1.0), (None, None), True),
        ((1.0, 1.0), (None, None), False),
        ((1.0, 2.0), (0.5, 0.8), True),  # chosen answers got less likely, and are preferred
        ((2.0, 1.0), (0.8, 0.5), False),
        ((1.0, 2.0), (1.0, 1.0), True),
        ((2.0, 1.0), (0.5, 0.5), False),
    ],
)
def test_better_is_a_lower_loss_or_more_pairs_the_right_way_round(
    losses: tuple[float, float], preferred: Any, better: bool, tuned: Tuned
) -> None:
    from localllm.finetune.view import tuned_view
    from localllm.ui import Table
    from localllm.ui.view import Toned

    before, after = (Judged(loss, 10, (loss,)) for loss in losses)
    judged = BeforeAfter(before, after, *preferred)
    assert judged.is_better is better
    tables = [p for p in tuned_view(replace(tuned, judged=judged)) if isinstance(p, Table)]
    tones = {c.tone for row in tables[0].rows for c in row if isinstance(c, Toned)}
    assert tones == {"good" if better else "bad"}


def test_a_type_that_cannot_be_is_refused_before_anything_is_learned(
    tune: Tune, registry: Registry
) -> None:
    """It was hours later, with an option of another command as the way out."""
    done = tune(*OPTIONS, "--merge", "iq2_xs")
    assert done.exit_code == 2
    error = done.json["error"]
    assert "--merge iq2_xs: IQ2_XS needs an importance matrix" in error["message"]
    assert "--type IQ2_XS --imatrix auto" in error["hint"]
    assert registry.models() == ()
    assert tune(*OPTIONS, "--merge", "iq2_xs", "--dry-run").exit_code == 2


def test_what_was_learned_is_shown_whatever_becomes_of_the_merge(
    tune: Tune, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 1000))
        done = tune(*OPTIONS, "--merge", "F16")
    assert done.exit_code == 1
    assert done.json["error"]["kind"] == "disk_full"
    assert done.data["judged"]["after"]["loss"] < done.data["judged"]["before"]["loss"]
    assert done.data["merged"] is None
    assert [model.name for model in registry.models()] == [done.data["name"]]
    again = tune(*OPTIONS, "--merge", "F16")
    assert (again.exit_code, again.data["merged"]["type"]) == (0, "F16"), again
