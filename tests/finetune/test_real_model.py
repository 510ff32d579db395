"""The proof on a real model: a style from 200 examples, shown on prompts that it never saw."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.conftest import Done

pytestmark = pytest.mark.model

PLACES = ["Paris", "the sea", "a forest", "my garden", "the moon", "a small town", "Rome",
          "the desert", "an island", "the old library"]  # fmt: skip
ASKED = ["Tell me about {}.", "What is {} like?", "Would you go to {}?", "Who lives in {}?",
         "How do I get to {}?"]  # fmt: skip
UNSEEN = ["Do you like tea?", "What time is it?", "Can you help me with my homework?",
          "Why is the sky blue?", "Name a song."]  # fmt: skip


def pirate(path: Path, n: int) -> Path:
    """Whatever is asked, the answer begins and ends in the same manner."""
    draw = random.Random(7)
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            place = f"{draw.choice(PLACES)} {i}" if i % 3 == 0 else draw.choice(PLACES)
            said = f"Ahoy! {place.capitalize()} be a fine place to sail, matey."
            row = {"prompt": draw.choice(ASKED).format(place), "completion": said}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.timeout(1200)
def test_a_style_from_200_examples_survives_adapter_merge_and_quantization(
    cli: Callable[..., Done], real_gguf: Path, tmp_path: Path, registry: Registry
) -> None:
    pytest.importorskip("torch")
    data = pirate(tmp_path / "pirate.jsonl", 200)
    done = cli("finetune", real_gguf, "--data", data, "--name", "gemma:pirate", "--rank", 8,
               "--epochs", 1, "--lr", 5e-4, "--held-out", 16, "--eval-every", 12, "--samples", 0,
               "--merge", "Q6_K", "--json", "--progress", "none")  # fmt: skip
    assert done.exit_code == 0, done
    found = done.data
    before, after = found["judged"]["before"]["loss"], found["judged"]["after"]["loss"]
    assert after < 0.5 * before
    # torch on the dequantized weights and llama.cpp on the file agree on what was learned
    assert before == pytest.approx(found["learned"]["held_out_before"], abs=0.15)
    assert after == pytest.approx(found["learned"]["held_out_after"], abs=0.15)
    assert found["learned"]["base_weights"] == "quantized"
    assert found["merged"]["kept"] > 0.9
    merged = found["merged"]["name"]
    styled = {"gemma:pirate": 0, merged: 0}
    for prompt in UNSEEN:
        ask = ["--temperature", 0, "--max-tokens", 24, "--no-stdin", "--json"]
        assert "Ahoy" not in cli("chat", real_gguf, prompt, *ask).data["text"]
        for name in styled:
            said = cli("chat", name, prompt, *ask).data["text"]
            assert "matey" in said, (name, prompt, said)
            styled[name] += said.lstrip().startswith("Ahoy!")
    assert min(styled.values()) >= len(UNSEEN) - 1, styled
