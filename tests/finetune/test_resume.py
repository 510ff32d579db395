"""Runs that are stopped: by kill -9, Ctrl-C, a full disk, a loss that is no number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

from localllm.errors import DiskFull
from localllm.finetune.training import checkpoint
from localllm.registry import Registry
from tests.conftest import Done
from tests.finetune.conftest import chats

Tune = Callable[..., Done]
OPTIONS = ["--threads", "1", "--samples", "0", "--held-out", "4", "--batch-size", "4",
           "--precision", "f32", "--steps", "6", "--lr", "3e-3", "--save-every", "2",
           "--eval-every", "2", "--name", "t:run", "--dropout", "0.1"]  # fmt: skip


def losses(done: Done) -> list[float]:
    return [loss for _, loss in done.data["losses"]]


def left(registry: Registry) -> list[Path]:
    return [p for p in (registry.home / "partial").iterdir() if p.suffix == ".part"]


def test_a_killed_run_is_gone_on_with_to_the_same_losses(
    tune: Tune, registry: Registry, tiny_gguf: Path, data: Path
) -> None:
    command = [sys.executable, "-m", "localllm", "finetune", str(tiny_gguf), "--data", str(data),
               *OPTIONS, "--progress", "json"]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "checkpoint" and event["step"] == 2:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert registry.models() == ()
    assert len(left(registry)) >= 1
    unasked = tune(*OPTIONS)
    assert unasked.exit_code == 2
    assert "--resume" in unasked.json["error"]["hint"]
    resumed = tune(*OPTIONS, "--resume")
    assert resumed.exit_code == 0, resumed
    assert left(registry) == []
    whole = tune(*OPTIONS, "--name", "t:whole")
    assert losses(resumed) == losses(whole)
    assert resumed.data["held_out"] == whole.data["held_out"]
    assert resumed.data["judged"] == whole.data["judged"]


def test_what_a_run_was_begun_with_cannot_change_but_its_pace_can(
    tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 4, KeyboardInterrupt())
        assert tune(*OPTIONS).exit_code == 130
    other = tune(*OPTIONS, "--resume", "--rank", 4)
    assert other.exit_code == 2
    # with what it was begun with, which nobody remembers
    assert other.json["error"]["message"].endswith("was begun with --rank 16")
    fewer = tune(*OPTIONS, "--resume", "--max-length", 64, "--held-out", 3)
    said = fewer.json["error"]["message"]
    assert said.endswith("was begun with no --max-length, --held-out 4")
    beside = chats(tmp_path / "others.jsonl", 40, seed=1)
    moved = tune(*OPTIONS, "--resume", source=beside)
    assert moved.json["error"]["message"].endswith("was begun with other data"), moved
    slower = tune(*OPTIONS, "--resume", "--lr", "1e-4")
    assert slower.exit_code == 0, slower
    assert len(losses(slower)) == 6


def test_going_on_with_nothing_begins_and_says_so(tune: Tune) -> None:
    """Another base or name is another run: it must not look as if that one went on."""
    done = tune(*OPTIONS, "--resume", json=False)
    assert done.exit_code == 0, done
    assert "no interrupted run of t:run on this base is kept: it begins anew" in done.err


def test_ctrl_c_keeps_the_last_finished_step(
    tiny_gguf: Path, data: Path, registry: Registry, tune: Tune
) -> None:
    command = [sys.executable, "-m", "localllm", "finetune", str(tiny_gguf), "--data", str(data),
               *OPTIONS, "--progress", "json", "--json"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    steps = []
    for line in process.stderr:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "step":
            steps.append(event["step"])
            if event["step"] == 3:
                process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    document = json.loads(process.stdout.read())
    assert process.wait() == 130
    assert document["error"]["kind"] == "interrupted"
    if steps[-1] < 6:  # it was fast enough
        assert f"step {steps[-1]} of 6" in document["error"]["message"]
    assert registry.models() == ()
    resumed = tune(*OPTIONS, "--resume")
    assert resumed.exit_code == 0, resumed
    assert [step for step, _ in resumed.data["losses"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("at", [1, 2, 3], ids=["step 2", "step 4", "the last step"])
def test_an_evaluation_that_was_stopped_is_made_when_one_goes_on(
    tune: Tune, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    from localllm.finetune.training import trainer

    whole = tune(*OPTIONS, "--name", "t:whole")
    real, calls = trainer.evaluate, []

    def stopped(task: object, group: object, check: Callable[[], None]) -> object:
        calls.append(1)
        if len(calls) == at + 1:
            signal.raise_signal(signal.SIGINT)
        return real(task, group, check)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", stopped)
        done = tune(*OPTIONS)
    assert done.exit_code == 130, done
    assert f"after step {2 * at} of 6" in done.json["error"]["message"]
    resumed = tune(*OPTIONS, "--resume")
    assert resumed.exit_code == 0, resumed
    assert resumed.data["held_out"] == whole.data["held_out"]
    assert [step for step, _ in resumed.data["held_out"]] == [0, 2, 4, 6]
    assert losses(resumed) == losses(whole)
    assert resumed.data["learned"]["kept_step"] == whole.data["learned"]["kept_step"]
    assert resumed.data["judged"] == whole.data["judged"]


def test_going_on_stays_with_the_precision_it_was_begun_in(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.finetune import building
    from localllm.finetune.training.precision import PrecisionTrial

    monkeypatch.setattr(building, "try_precisions", lambda *a: PrecisionTrial(1.0, 9.0))
    auto = [*OPTIONS, "--precision", "auto"]
    with monkeypatch.context() as patch:
        stop_at(patch, 4, KeyboardInterrupt())
        assert tune(*auto).exit_code == 130
    monkeypatch.setattr(building, "try_precisions", lambda *a: PrecisionTrial(9.0, 1.0))
    resumed = tune(*auto, "--resume")
    assert resumed.exit_code == 0, resumed
    assert resumed.data["learned"]["precision"] == "bf16"
    assert tune(*auto, "--name", "t:new").data["learned"]["precision"] == "f32"
    with monkeypatch.context() as patch:
        stop_at(patch, 4, KeyboardInterrupt())
        assert tune(*auto, "--name", "t:named").exit_code == 130
    named = tune(*OPTIONS, "--precision", "bf16", "--name", "t:named", "--resume")
    assert named.data["learned"]["precision"] == "bf16"  # what is named wins


@pytest.mark.parametrize(("votes", "wanted"), [(2.0, "bf16"), (1.0, "f32"), (0.0, "f32")])
def test_several_processes_compute_in_one_precision(
    monkeypatch: pytest.MonkeyPatch, votes: float, wanted: str
) -> None:
    from types import SimpleNamespace
    from typing import Any

    from localllm.finetune import building
    from localllm.finetune.recipe import Recipe
    from localllm.finetune.training.group import Group
    from localllm.finetune.training.precision import PrecisionTrial

    class Two(Group):
        def sum_number(self, value: float) -> float:
            assert value == bool(votes)
            return votes

    monkeypatch.setattr(
        building, "try_precisions", lambda *a: PrecisionTrial(1.0, 9.0 if votes else 1.0)
    )
    subject: Any = SimpleNamespace(base=SimpleNamespace(sizes=SimpleNamespace(n_embd=8, n_ff=8)))
    found, _ = building.precision_of(Recipe(), subject, Two(0, 2), None)
    assert found == wanted


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    tune: Tune, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from localllm.finetune.training import objectives

    real = objectives.Likelihood.total
    calls = []

    def broken(self: object, found: torch.Tensor, pack: object) -> object:
        calls.append(1)
        total, extra = real(self, found, pack)  # type: ignore[arg-type]
        return (
            total * float("nan") if torch.is_grad_enabled() and len(calls) > 6 else total
        ), extra

    with monkeypatch.context() as patch:
        patch.setattr(objectives.Likelihood, "total", broken)
        done = tune(*OPTIONS)
    assert done.exit_code == 1, done
    error = done.json["error"]
    assert error["kind"] == "training_failed"
    assert "is kept" in error["message"]
    assert "--lr" in error["hint"]
    assert registry.models() == ()
    assert tune(*OPTIONS, "--lr", "1e-4", "--resume").exit_code == 0


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(
    tune: Tune, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    written = []

    def full(descriptor: int) -> None:
        written.append(1)
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        done = tune(*OPTIONS)
    assert done.exit_code == 1, done
    assert done.json["error"]["kind"] == "disk_full"
    assert "--resume" in done.json["error"]["hint"]
    assert registry.models() == ()
    states = [p for p in left(registry) if checkpoint.read_whole(p)]
    assert states
    assert not [p for p in (registry.home / "partial").iterdir() if p.name.endswith(".new")]
    assert tune(*OPTIONS, "--resume").exit_code == 0


def test_a_damaged_checkpoint_is_said_so(tune: Tune, registry: Registry,
                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        stop_at(patch, 4, KeyboardInterrupt())
        assert tune(*OPTIONS).exit_code == 130
    for path in left(registry):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = tune(*OPTIONS, "--resume")
    assert done.exit_code == 7, done
    assert "--restart" in done.json["error"]["hint"]
    assert tune(*OPTIONS, "--restart").exit_code == 0


def test_it_stops_early_and_keeps_the_best(tune: Tune) -> None:
    done = tune("--steps", 30, "--lr", 0.1, "--eval-every", 1, "--patience", 2, "--name", "t:early",
                "--schedule", "constant", "--warmup", 0)  # fmt: skip
    assert done.exit_code == 0, done
    found = done.data["learned"]
    held = {step: loss for step, loss in done.data["held_out"] if step}
    assert found["stopped"] == "early"
    assert found["steps"] == found["kept_step"] + 2 < 30
    assert found["held_out_after"] == held[found["kept_step"]] == min(held.values())
    assert done.data["judged"]["after"]["loss"] == pytest.approx(found["held_out_after"], abs=0.1)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    """Raise `error` when that step's record is told."""
    from localllm.finetune.watching import RunWatcher

    real = RunWatcher.step

    def told(self: RunWatcher, record: object) -> None:
        real(self, record)  # type: ignore[arg-type]
        if record.step == step:  # type: ignore[attr-defined]
            raise error

    monkeypatch.setattr(RunWatcher, "step", told)


def test_a_file_that_refuses_bytes_is_a_full_disk_and_the_old_state_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    import torch

    path = tmp_path / "state"
    checkpoint.write_whole(path, {"step": 1}, [("tensor", torch.arange(5000))])

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            if self.tell() > 1000:
                raise OSError(28, "No space left on device")
            return super().write(data)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode="r": Full())
        with pytest.raises(DiskFull, match="one before is kept"):
            checkpoint.write_whole(path, {"step": 2}, [("tensor", torch.arange(5000))])
    found = checkpoint.read_whole(path)
    assert found is not None
    assert found[0] == {"step": 1}
    assert torch.equal(found[1]["tensor"], torch.arange(5000))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file system that fills up")
def test_what_a_checkpoint_was_refused_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import io

    class Limited(io.BytesIO):  # as `ulimit -f` does
        def write(self, data: object) -> int:
            raise OSError(errno.EFBIG, "File too large")

    (tmp_path / "first.new").symlink_to("/dev/full")
    with pytest.raises(DiskFull) as told:
        checkpoint.write_whole(tmp_path / "first", {"step": 1})
    assert "is kept" not in told.value.message  # there was none
    monkeypatch.setattr(Path, "open", lambda self, mode="r": Limited())
    with pytest.raises(OSError, match="File too large") as refused:
        checkpoint.write_whole(tmp_path / "second", {"step": 1})
    assert refused.value.filename == str(tmp_path / "second")
