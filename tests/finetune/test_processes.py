"""Two processes that train one model, as torchrun starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.conftest import Done

pytest.importorskip("torch")


def test_two_processes_learn_what_one_learns(
    tune: Callable[..., Done], tiny_gguf: Path, data: Path, registry: Registry
) -> None:
    options = ["--steps", "3", "--lr", "3e-3", "--threads", "1", "--samples", "0", "--held-out",
               "4", "--batch-size", "4", "--precision", "f32", "--pack-tokens", "80"]  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "localllm", "finetune", str(tiny_gguf), "--data", str(data),
             *options, "--name", "t:two", "--json", "--progress", "none"],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ends = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert ends[1][0] == ""  # one speaks
    together = json.loads(ends[0][0])["data"]
    alone = tune(*options, "--name", "t:alone").data
    for (_, one), (_, other) in zip(together["losses"], alone["losses"], strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert together["learned"]["held_out_after"] == pytest.approx(
        alone["learned"]["held_out_after"], rel=1e-4
    )
    assert {model.name for model in registry.models()} == {"t:two", "t:alone"}
