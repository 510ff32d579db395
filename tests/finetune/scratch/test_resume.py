"""Runs that are stopped: by kill -9, Ctrl-C, a full disk, a loss that is no number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

from localllm.finetune.training import checkpoint
from localllm.registry import Registry
from tests.conftest import Done
from tests.finetune.scratch.conftest import SMALL

Learn = Callable[..., Done]
PACE = ["--steps", 6, "--save-every", 2, "--eval-every", 2]


def losses(done: Done) -> list[float]:
    return [loss for _, loss in done.data["losses"]]


def begun(text: Path, send: signal.Signals, at: int) -> tuple[int, str]:
    """A run in a process of its own that gets `send` when the checkpoint of step `at` is told."""
    words = [*SMALL, "--samples", 0, *PACE, "--progress", "json", "--json"]
    command = [sys.executable, "-m", "localllm", "train", "toy", "--data", str(text),
               *map(str, words)]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None and process.stdout is not None
    for line in process.stderr:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "checkpoint" and event["step"] == at:
            process.send_signal(send)
            break
    process.stderr.read()
    return process.wait(), process.stdout.read()


def test_a_killed_run_is_gone_on_with_to_the_same_losses(
    learn: Learn, registry: Registry, text: Path
) -> None:
    begun(text, signal.SIGKILL, 2)
    assert registry.models() == ()
    unasked = learn(*PACE)
    assert unasked.exit_code == 2
    assert "--resume" in unasked.json["error"]["hint"]
    other = learn(*PACE, "--layers", 2, "--resume")
    assert other.exit_code == 2
    assert "begun with --layers 1" in other.json["error"]["message"]
    resumed = learn(*PACE, "--resume")
    assert resumed.exit_code == 0, resumed
    assert not list((registry.home / "partial").iterdir())
    whole = learn(*PACE, name="whole")
    assert losses(resumed) == losses(whole)
    assert resumed.data["held_out"] == whole.data["held_out"]
    assert resumed.data["judged"] == whole.data["judged"]


def test_other_text_is_another_run(learn: Learn, text: Path) -> None:
    begun(text, signal.SIGKILL, 2)
    text.write_text(text.read_text("utf-8") + "And one line more.\n", "utf-8")
    done = learn(*PACE, "--resume")
    assert done.exit_code == 2
    assert "other text" in done.json["error"]["message"]
    assert learn(*PACE, "--restart").exit_code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_keeps_the_last_finished_step(learn: Learn, text: Path, registry: Registry) -> None:
    status, out = begun(text, signal.SIGINT, 4)
    if status == 0:  # it was fast enough
        return
    assert status == 130
    assert "of 6; its state is kept" in json.loads(out)["error"]["message"]
    assert registry.models() == ()
    done = learn(*PACE, "--resume")
    assert done.exit_code == 0, done
    assert [step for step, _ in done.data["losses"]] == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(
    learn: Learn, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = os.fsync, []

    def full(descriptor: int) -> None:
        written.append(1)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        done = learn(*PACE)
    assert done.exit_code == 1, done
    assert done.json["error"]["kind"] == "disk_full"
    assert "--resume" in done.json["error"]["hint"]
    assert registry.models() == ()
    assert learn(*PACE, "--resume").exit_code == 0


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    learn: Learn, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from localllm.finetune.training import objectives

    real, calls = objectives.Likelihood.total, []

    def broken(self: Any, found: Any, pack: Any) -> Any:
        total, extra = real(self, found, pack)
        calls.append(torch.is_grad_enabled())
        return (total * float("nan") if sum(calls) > 3 and calls[-1] else total), extra

    with monkeypatch.context() as patch:
        patch.setattr(objectives.Likelihood, "total", broken)
        done = learn(*PACE)
    assert done.exit_code == 1, done
    assert done.json["error"]["kind"] == "training_failed"
    assert "--lr" in done.json["error"]["hint"]
    assert registry.models() == ()
    assert learn(*PACE, "--lr", 1e-4, "--resume").exit_code == 0


def test_a_damaged_plan_is_said_so(
    learn: Learn, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.finetune.watching import RunWatcher

    real = RunWatcher.step

    def stopped(self: Any, record: Any) -> None:
        real(self, record)
        if record.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunWatcher, "step", stopped)
        assert learn(*PACE).exit_code == 130
    for path in (registry.home / "partial").iterdir():
        if path.read_bytes()[:1] == b"{" and b'"asked"' in path.read_bytes():
            path.write_text('{"version": 1}')
    done = learn(*PACE, "--resume")
    assert done.exit_code == 7, done
    assert "--restart" in done.json["error"]["hint"]
