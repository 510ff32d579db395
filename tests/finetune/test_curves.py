"""Curves for TensorBoard and Weights & Biases, read back by their own readers."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

from localllm.finetune import curves
from localllm.finetune.curves import Drawn, shared_options
from localllm.finetune.recipe import Recipe
from localllm.finetune.training.records import EvalRecord, StepRecord
from tests.conftest import Done
from tests.finetune.test_resume import stop_at

Tune = Callable[..., Done]


def scalars(folder: Path) -> Any:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    found = reader.EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_reads_what_the_run_told(tune: Tune, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    done = tune("--steps", 4, "--eval-every", 2, "--name", "t:curves", "--tensorboard",
                tmp_path / "runs", "--system", "a secret")  # fmt: skip
    assert done.exit_code == 0, done
    found = scalars(tmp_path / "runs" / "t-curves")
    told = [(one.step, one.value) for one in found.Scalars("train/loss")]
    assert [step for step, _ in told] == [1, 2, 3, 4]
    assert [v for _, v in told] == pytest.approx([v for _, v in done.data["losses"]])
    held = [(one.step, one.value) for one in found.Scalars("eval/loss")]
    assert [step for step, _ in held] == [0, 2, 4]
    assert [v for _, v in held] == pytest.approx([v for _, v in done.data["held_out"]])
    assert {"train/learning_rate", "train/grad_norm", "train/tokens_per_s"} <= set(
        found.Tags()["scalars"]
    )
    (recipe,) = found.Tensors("recipe/text_summary")
    text = recipe.tensor_proto.string_val[0].decode()
    assert "| rank | 16 |" in text
    assert "a secret" not in text
    assert not any(b"a secret" in one.read_bytes() for one in tmp_path.rglob("events.*"))


def test_a_run_that_goes_on_has_each_step_once(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    options = ["--steps", 6, "--save-every", 2, "--eval-every", 3, "--name", "t:on",
               "--tensorboard", tmp_path]  # fmt: skip
    with monkeypatch.context() as patch:
        stop_at(patch, 5, KeyboardInterrupt())  # step 4 is kept; 5 was told and is lost
        assert tune(*options).exit_code == 130
    resumed = tune(*options, "--resume")
    assert resumed.exit_code == 0, resumed
    told = [(one.step, one.value) for one in scalars(tmp_path / "t-on").Scalars("train/loss")]
    assert [step for step, _ in told] == [1, 2, 3, 4, 5, 6]
    assert [v for _, v in told] == pytest.approx([v for _, v in resumed.data["losses"]])


def test_weights_and_biases_offline(
    tune: Tune, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    done = tune("--steps", 2, "--name", "t:wandb", "--wandb", "mine", "--sample-prompt", "a secret",
                "--samples", 0)  # fmt: skip
    assert done.exit_code == 0, done
    (kept,) = tmp_path.rglob("*.wandb")
    written = kept.read_bytes()
    for part in (b"train/loss", b"eval/loss", b"t:wandb", b"mine"):
        assert part in written
    here = ["a secret", str(Path.home()), str(tmp_path), str(tiny_gguf), sys.executable]
    here += [platform.node()] * (len(platform.node()) > 4)  # a shorter one is found by chance
    for part in here:
        assert part.encode() not in written, part


def test_nothing_is_written_unless_asked(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert tune("--steps", 1, "--name", "t:plain", "--samples", 0).exit_code == 0
    new = [p for p in sorted(tmp_path.rglob("*")) if p not in before]
    assert not [p for p in new if "wandb" in p.name or "events" in p.name]


@pytest.mark.parametrize(("option", "package"), [("--tensorboard", "tensorboard"),
                                                 ("--wandb", "wandb")])  # fmt: skip
def test_what_is_not_installed_is_said_at_once(
    tune: Tune, monkeypatch: pytest.MonkeyPatch, option: str, package: str
) -> None:
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    done = tune("--steps", 1, "--name", "t:none", option, "somewhere")
    assert done.exit_code == 1, done
    assert done.json["error"]["kind"] == "missing_extra"
    assert done.json["error"]["hint"] == f"pip install {package}"


def test_what_is_the_users_own_does_not_go_along() -> None:
    recipe = Recipe(data=("a.jsonl",), system="s", sample_prompt=("p",), rank=4, wandb="x",
                    tensorboard="y", base=str(Path("m.gguf").absolute()))  # fmt: skip
    shared = shared_options(recipe)
    assert shared["base"] == "m.gguf"
    assert shared["rank"] == 4
    assert not {"data", "system", "sample_prompt", "wandb", "tensorboard"} & set(shared)
    json.dumps(shared)


def test_curves_that_fail_do_not_end_the_run() -> None:
    class Full:
        closed = 0

        def add(self, figures: object, step: int) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            self.closed += 1

    class Kept(Full):
        steps: tuple[int, ...] = ()

        def add(self, figures: object, step: int) -> None:
            self.steps = (*self.steps, step)

    notes: list[str] = []
    kept = Kept()
    drawn = Drawn([Full(), kept], notes.append)
    drawn.evaluated(EvalRecord(0, 2.0, False, 0.1))
    drawn.step(StepRecord(1, 0.1, 2.0, 1e-3, 1.0, 10, 5, 0.5, 1))
    drawn.close()
    assert kept.steps == (0, 1)
    assert kept.closed == 1
    assert len(notes) == 1
    assert "No space" in notes[0]
