"""Texts that are learned in seconds, and the command on them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Done

WORDS = (
    "the", "a", "red", "blue", "cat", "dog", "house", "runs", "sleeps", "sees", "under", "over",
)  # fmt: skip
# A model of 60,000 parameters on one thread: to wait for a second one is all it would do.
SMALL = ["--width", 32, "--layers", 1, "--heads", 2, "--ff", 64, "--context", 64, "--vocab-size",
         300, "--batch-tokens", 512, "--threads", 1, "--precision", "f32"]  # fmt: skip


def toy(n_lines: int, seed: int = 0) -> str:
    """A language of few words: each line a subject, a verb, an object and a number."""
    draw = random.Random(seed)
    lines = []
    for _ in range(n_lines):
        said = " ".join(draw.choices(WORDS, k=draw.randint(3, 9)))
        lines.append(f"The {said}. It is {draw.randint(1, 99)}!\n")
    return "".join(lines)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "toy.txt"
    path.write_text(toy(900), "utf-8")
    return path


@pytest.fixture
def learn(cli: Callable[..., Done], text: Path) -> Callable[..., Done]:
    """`localllm train` with a tiny shape; later options win."""

    def run(*more: object, name: str = "toy", source: object = None, json: bool = True) -> Done:
        options = _last([*SMALL, "--samples", 0, "--steps", 6, *more])
        return cli("train", name, "--data", source or text, "--progress", "none", *options,
                   *(["--json"] if json else []))  # fmt: skip

    return run


def _last(options: list[object]) -> list[object]:
    """Options of which a later one takes the place of an earlier one with its value; None as a
    value takes it away."""
    found: dict[str, list[object]] = {}
    key = ""
    for one in options:
        if isinstance(one, str) and one.startswith("--"):
            key, found[one] = one, []
        else:
            found[key].append(one)
    return [x for k, v in found.items() if v != [None] for x in (k, *v)]
