"""Curves of a run from nothing, read back by TensorBoard's own reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from localllm.registry import Registry
from tests.conftest import Done
from tests.finetune.test_curves import scalars

Learn = Callable[..., Done]


def test_a_run_that_goes_on_has_each_step_once(
    learn: Learn, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.finetune.watching import RunWatcher

    real = RunWatcher.step

    def stopped(self: Any, record: Any) -> None:
        real(self, record)
        if record.step == 3:
            raise KeyboardInterrupt

    told = ("--eval-every", 2, "--save-every", 2, "--tensorboard", tmp_path / "runs",
            "--sample-prompt", "a secret")  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(RunWatcher, "step", stopped)
        assert learn(*told).exit_code == 130
    done = learn(*told, "--resume")
    assert done.exit_code == 0, done
    found = scalars(tmp_path / "runs" / "toy")
    losses = [(one.step, one.value) for one in found.Scalars("train/loss")]
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert [v for _, v in losses] == pytest.approx([v for _, v in done.data["losses"]])
    held = [one.value for one in found.Scalars("eval/loss")]
    assert held == pytest.approx([v for _, v in done.data["held_out"]])
    assert not any(b"a secret" in one.read_bytes() for one in tmp_path.rglob("events.*"))
    assert not list((registry.home / "partial").iterdir())
    # where a run is drawn does not make it another one
    again = learn("--eval-every", 2, "--save-every", 2)
    assert again.exit_code == 0, again
    assert again.data["reused"] is True


def test_what_draws_is_missed_before_anything_is_read(
    learn: Learn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.finetune import curves

    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    done = learn("--wandb", "project")
    assert done.exit_code == 1, done
    assert "pip install wandb" in done.json["error"]["hint"]
