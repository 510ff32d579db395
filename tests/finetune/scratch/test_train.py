"""train, whole, on a toy language: what comes out, and that llama.cpp runs just that."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

from localllm.engine.model import Model
from localllm.engine.options import LoadOptions
from localllm.registry import Registry
from tests.conftest import Done
from tests.finetune.model.compare import llama_logits, torch_logits
from tests.finetune.scratch.conftest import SMALL, toy

Learn = Callable[..., Done]


def test_it_learns_and_llama_cpp_sees_it(
    learn: Learn, cli: Callable[..., Done], registry: Registry, text: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    done = learn("--steps", 60, "--lr", 1e-2, "--samples", 2, "--sample-tokens", 12,
                 "--sample-prompt", "The cat", "--report", page, "--eval-every", 30)  # fmt: skip
    assert done.exit_code == 0, done
    found = done.data
    model = registry.resolve("toy")
    with Model.load(model.path, LoadOptions(vocab_only=True)) as loaded:
        ids = loaded.tokenizer.encode(text.read_text("utf-8"), add_special=False)
        shown = loaded.tokenizer.encode("The cat")
    # below what counting tokens alone can reach on the whole text
    counts = np.array(list(Counter(ids).values())) / len(ids)
    entropy = float(-(counts * np.log(counts)).sum())
    judged, learned = found["judged"], found["learned"]
    assert judged["loss"] < entropy - 0.5
    assert learned["held_out_before"] == pytest.approx(math.log(300), abs=0.3)  # knew nothing
    assert judged["loss"] == pytest.approx(judged["loss_torch"], abs=0.01)
    assert judged["bits_per_byte"] == pytest.approx(
        judged["loss"] * judged["n_tokens"] / math.log(2) / judged["n_bytes"]
    )
    assert len(judged["baselines"]) == 4
    # what llama.cpp computes is what torch computes with the same file
    from localllm.finetune.model import load_causal

    mine = torch_logits(load_causal(model.path).module, shown)
    np.testing.assert_allclose(llama_logits(model.path, shown), mine, atol=2.5e-2)
    assert [one["prompt"] for one in found["samples"]] == ["The cat"]
    assert {one["step"] for one in found["along"]} == {30, 60}
    lineage = model.lineage
    assert lineage is not None
    assert (lineage.operation, lineage.parents) == ("train", ())
    assert lineage.inputs[f"data:{text}"] == hashlib.sha256(text.read_bytes()).hexdigest()
    assert lineage.parameters["decided"]["steps"] == 60
    options = shlex.split(lineage.command)
    assert options[:5] == ["localllm", "train", "toy", "--data", str(text)]
    assert {*map(str, SMALL), "--steps", "60"} - {"auto"} <= set(options)
    assert {"torch", "tokenizers", "localllm"} <= set(lineage.versions)
    assert not list((registry.home / "partial").iterdir())
    assert "Kneser-Ney" in page.read_text("utf-8")
    _goes_on(cli, learn, registry, tmp_path)


def _goes_on(cli: Callable[..., Done], learn: Learn, registry: Registry, folder: Path) -> None:
    """The model is one as any other: quantized, tuned, asked, found again after a rebuild."""
    small = cli("quantize", "toy", "Q8_0", "--json")
    assert small.exit_code == 0, small
    said = cli("chat", "toy:Q8_0", "--raw", "The cat", "--max-tokens", 8, "--json")
    assert said.exit_code == 0, said
    rows = folder / "more.jsonl"
    rows.write_text("".join(json.dumps({"text": toy(3, i)}) + "\n" for i in range(9)), "utf-8")
    tuned = cli("finetune", "toy", "--data", rows, "--steps", 1, "--samples", 0, "--held-out", 2,
                "--threads", 1, "--precision", "f32", "--name", "toy:more", "--progress", "none",
                "--json")  # fmt: skip
    assert tuned.exit_code == 0, tuned
    again = learn("--steps", 60, "--lr", 1e-2, "--eval-every", 30)
    assert again.exit_code == 0, again
    assert again.data["reused"] is True
    assert again.data["samples"][0]["prompt"] == "The cat"
    taken = learn("--steps", 61)
    assert taken.exit_code == 2
    assert "localllm rm toy" in taken.json["error"]["hint"]
    made = registry.resolve("toy").lineage
    assert cli("rebuild", "--json").exit_code == 0
    assert registry.resolve("toy").lineage == made


@pytest.mark.parametrize("type", ["BF16", "F32"])
def test_other_types_and_a_seed_gives_the_same(learn: Learn, type: str) -> None:
    one = learn("--type", type.lower(), "--kv-heads", 1, name="one")
    assert one.exit_code == 0, one
    assert one.data["type"] == type
    assert one.data["judged"]["loss"] == pytest.approx(one.data["judged"]["loss_torch"], abs=0.03)
    two = learn("--type", type, "--kv-heads", 1, name="two")
    assert two.data["losses"] == one.data["losses"]
    assert two.data["judged"] == one.data["judged"]
    other = learn("--type", type, "--kv-heads", 1, "--seed", 3, name="other")
    assert other.data["losses"] != one.data["losses"]


def chats(path: Path, n: int) -> Path:
    rows = []
    for i in range(n):
        asked, said = toy(1, i).strip(), toy(1, i + n).strip()
        rows.append({"messages": [{"role": "user", "content": asked},
                                  {"role": "assistant", "content": said}]})  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("what", ["all", "assistant"])
def test_conversations_bring_a_chat_template(
    learn: Learn, cli: Callable[..., Done], registry: Registry, tmp_path: Path, what: str
) -> None:
    data = chats(tmp_path / "chats.jsonl", 400)
    done = learn("--learn", what, "--context", 128, "--samples", 1, "--sample-tokens", 4,
                 source=data)  # fmt: skip
    assert done.exit_code == 0, done
    assert done.data["template"] == "chatml"
    prompt = done.data["samples"][0]["prompt"]
    model = registry.resolve("toy")
    with Model.load(model.path, LoadOptions(vocab_only=True)) as loaded:
        template = loaded.meta("tokenizer.chat_template") or ""
        assert "<|im_start|>" in template
        marks = [loaded.tokenizer.token_id(m) for m in ("<|im_start|>", "<|im_end|>")]
        assert marks == [1, 2]
    assert prompt.startswith(("The ", "user\nThe "))
    # each token of a conversation counts, or those of the answers alone: of two messages one,
    # without the roles and the marks
    share = done.data["judged"]["n_tokens"] / done.data["data"]["held_tokens"]
    assert share == 1.0 if what == "all" else 0.25 < share < 0.45
    said = cli("chat", "toy", "The cat", "--max-tokens", 4, "--json")
    assert said.exit_code == 0, said


def test_a_dry_run_chooses_and_writes_nothing(learn: Learn, registry: Registry, home: Path) -> None:
    done = learn("--dry-run", "--steps", None, "--budget", 0.1)
    assert done.exit_code == 0, done
    plan = done.data["plan"]
    assert plan["n_vocab"] == 300 and plan["steps"] >= 1
    assert plan["training_s"] == pytest.approx(plan["tokens"] / plan["tokens_per_s"], rel=1e-2)
    assert plan["tokens"] <= 0.1 * 60 * plan["tokens_per_s"] * 1.1
    assert registry.models() == ()
    assert not (home / "partial").exists()
    text = learn("--dry-run", json=False)
    assert "a parameter (20 are thought best)" in text.out


def test_what_llama_cpp_does_not_see_is_not_registered(
    learn: Learn, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.finetune.scratch import model as written

    real = written.write_scratch

    def broken(module: Any, *args: Any, **named: Any) -> None:
        import torch

        with torch.no_grad():
            module.model.layers[0].self_attn.q_proj.weight.mul_(-1)
            module.model.norm.weight.mul_(1.5)
        real(module, *args, **named)
        with torch.no_grad():
            module.model.layers[0].self_attn.q_proj.weight.mul_(-1)
            module.model.norm.weight.div_(1.5)

    with monkeypatch.context() as patch:
        patch.setattr(written, "write_scratch", broken)
        done = learn("--steps", 30, "--lr", 1e-2)
    assert done.exit_code == 5, done
    assert "thrown away" in done.json["error"]["message"]
    assert registry.models() == ()
    again = learn("--steps", 30, "--lr", 1e-2, "--resume")  # nothing of the training is lost
    assert again.exit_code == 0, again
    assert again.data["learned"]["steps"] == 30


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--vocab-size", 4000), 2, "has no 4000 tokens"),
        (("--width", 65), 2, "multiple of 32"),
        (("--resume", "--restart"), 2, "name one"),
        (("--budget", 1), 2, "both say how long"),
        (("--data", "./nothing.txt"), 3, "there is no file"),
        (("--recipe", "./nothing.toml"), 3, "there is no recipe"),
        (("--width", 4096, "--layers", 128, "--heads", 32, "--ff", 32768), 4, "can be used"),
    ],
)
def test_one_line_and_the_documented_code(
    learn: Learn, registry: Registry, options: tuple[object, ...], code: int, said: str
) -> None:
    done = learn(*options)
    assert done.exit_code == code, done
    assert said in done.json["error"]["message"]
    assert "\n" not in done.json["error"]["message"]
    assert registry.models() == ()


def test_a_name_that_no_model_can_have(cli: Callable[..., Done], text: Path) -> None:
    assert cli("train", "hf:a/b", "--data", text).exit_code == 2
    nameless = cli("train", "--data", text)
    assert nameless.exit_code == 2
    assert "localllm train NAME" in nameless.err


def test_the_shipped_recipe_runs(
    cli: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    recipe = Path(__file__).parents[3] / "recipes" / "train_small.toml"
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i}.txt").write_text(toy(30, seed=i), "utf-8")
    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "saved.toml"
    done = cli("train", "--recipe", recipe, "--width", 32, "--layers", 1, "--heads", 1, "--ff", 64,
               "--vocab-size", 300, "--context", 32, "--budget", 0.1, "--threads", 1, "--progress",
               "none", "--samples", 0, "--save-recipe", saved, "--json")  # fmt: skip
    assert done.exit_code == 0, done
    assert registry.resolve("field").format == "gguf"
    again = cli("train", "--recipe", saved, "--progress", "none", "--json")
    assert again.exit_code == 0, again
    assert again.data["reused"] is True
