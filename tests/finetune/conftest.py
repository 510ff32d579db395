"""A tiny base and data that it can learn in seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Done

WORDS = ("the", "a", "red", "blue", "green", "cat", "dog", "house", "runs", "sleeps", "sees")


def chats(path: Path, n: int, seed: int = 0) -> Path:
    """Conversations that are all answered in one manner."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(n):
            asked = " ".join(draw.choices(WORDS, k=draw.randint(3, 9)))
            said = [{"role": "user", "content": asked},
                    {"role": "assistant", "content": f"Aye, {asked.split()[0]}!"}]  # fmt: skip
            file.write(json.dumps({"messages": said}) + "\n")
    return path


def preferences(path: Path, n: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            row = {"prompt": f"question {i}", "chosen": f"yes yes {i}", "rejected": f"no never {i}"}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return chats(tmp_path / "chats.jsonl", 40)


@pytest.fixture
def tune(cli: Callable[..., Done], tiny_gguf: Path, data: Path) -> Callable[..., Done]:
    """`localllm finetune` on the tiny model with options for a small run; one thread, since
    waiting for a second one is all that it would do."""
    pytest.importorskip("torch")

    def run(*more: object, base: object = None, source: object = None, json: bool = True) -> Done:
        options = ["--threads", 1, "--progress", "none", "--samples", 1, "--sample-tokens", 4,
                   "--held-out", 4, "--batch-size", 4, "--precision", "f32", *more]  # fmt: skip
        return cli(
            "finetune", base or tiny_gguf, "--data", source or data, *options,
            *(["--json"] if json else []),
        )  # fmt: skip

    return run


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
