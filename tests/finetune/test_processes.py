"""Two processes that train one model, as torchrun starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.finetune.conftest import preferences

pytest.importorskip("torch")


def together(base: Path, data: Path, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result of two processes, and the events that the first one told."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "localllm", "finetune", str(base), "--data", str(data),
             *options, "--name", "t:two", "--json", "--progress", "json"],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ends = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert ends[1] == ("", "")  # one speaks
    return json.loads(ends[0][0])["data"], events(ends[0][1])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


OPTIONS = ["--steps", "3", "--lr", "3e-3", "--threads", "1", "--samples", "0", "--held-out", "4",
           "--batch-size", "4", "--precision", "f32", "--pack-tokens", "80"]  # fmt: skip


def test_two_processes_learn_what_one_learns(
    tune: Callable[..., Done], tiny_gguf: Path, data: Path, registry: Registry
) -> None:
    both, _ = together(tiny_gguf, data, *OPTIONS)
    alone = tune(*OPTIONS, "--name", "t:alone").data
    for (_, one), (_, other) in zip(both["losses"], alone["losses"], strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert both["learned"]["held_out_after"] == pytest.approx(
        alone["learned"]["held_out_after"], rel=1e-4
    )
    assert {model.name for model in registry.models()} == {"t:two", "t:alone"}


def test_accelerate_launches_it_as_torchrun_does(
    tiny_gguf: Path, data: Path, tmp_path: Path, registry: Registry
) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--num_processes",
               "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
               "--main_process_port", str(free_port()), "-m", "localllm", "finetune",
               str(tiny_gguf), "--data", str(data), *OPTIONS, "--steps", "1", "--name", "t:two",
               "--json", "--progress", "json"]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, check=False,
        env={**os.environ, "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done
    document = json.loads(done.stdout)  # one document: one process speaks
    assert [step for step, _ in document["data"]["losses"]] == [1]
    assert document["data"]["learned"]["shards"] == 2  # as --use_fsdp says
    assert [one["step"] for one in events(done.stderr) if one["event"] == "step"] == [1]
    assert [model.name for model in registry.models()] == ["t:two"]


def test_what_goes_with_the_loss_is_of_all_processes(
    tune: Callable[..., Done], tiny_gguf: Path, tmp_path: Path
) -> None:
    pairs = preferences(tmp_path / "pairs.jsonl", 13)  # of 9 the last step has one: one process
    _, seen = together(tiny_gguf, pairs, *OPTIONS)
    done = tune(*OPTIONS, "--name", "t:alone", "--progress", "json", source=pairs)
    alone = events(done.err)
    for kind in ("step", "evaluation"):
        ours, theirs = ([e["extra"] for e in told if e["event"] == kind] for told in (seen, alone))
        assert len(ours) == len(theirs) >= 3
        for one, other in zip(ours, theirs, strict=True):
            assert set(one) == {"accuracy", "margin"}
            assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_processes_meet_over_gloo_whatever_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from localllm.finetune.training import group

    used: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(group, "launched", lambda: (1, 2))
    monkeypatch.setattr(group.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(group.dist, "init_process_group", lambda name, **_: used.append(name))
    assert group.join() == group.Group(1, 2)
    assert used == ["gloo"]
