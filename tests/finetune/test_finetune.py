"""finetune, whole, on a tiny model: what comes out, and that llama.cpp runs it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.engine.model import Model as Engine
from localllm.engine.options import LoadOptions
from localllm.registry import Registry
from tests.conftest import Done
from tests.finetune.conftest import chats, preferences

Tune = Callable[..., Done]


def losses(data: dict[str, object]) -> list[float]:
    return [loss for _, loss in data["losses"]]  # type: ignore[attr-defined]


def test_a_tuned_adapter_is_registered_with_all_it_was_made_from(
    tune: Tune, registry: Registry, tiny_gguf: Path, data: Path
) -> None:
    done = tune("--steps", 6, "--lr", 3e-3, "--name", "t:aye")
    assert done.exit_code == 0, done
    found = done.data
    assert found["kind"] == "adapter"
    before, after = found["judged"]["before"], found["judged"]["after"]
    assert after["loss"] < before["loss"] - 1  # six steps teach it the manner
    # torch and llama.cpp, on the same examples, through the file that was written
    assert before["loss"] == pytest.approx(found["learned"]["held_out_before"], abs=0.02)
    assert after["loss"] == pytest.approx(found["learned"]["held_out_after"], abs=0.05)
    model = registry.resolve("t:aye")
    assert model.format == "adapter"
    assert [f.role for f in model.files] == ["adapter"]
    lineage = model.lineage
    assert lineage is not None
    assert lineage.operation == "finetune"
    import hashlib

    assert lineage.parents == (
        (str(tiny_gguf), hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()),
    )
    assert lineage.parameters["rank"] == 16
    assert lineage.parameters["lr"] == 3e-3
    assert lineage.inputs[f"data:{data}"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert {"torch", "transformers", "localllm"} <= set(lineage.versions)
    assert not list((registry.home / "partial").iterdir())  # nothing is left of the run


def test_the_same_again_is_not_made_again_and_restart_makes_it(tune: Tune) -> None:
    first = tune("--steps", 2, "--name", "t:one")
    again = tune("--steps", 2, "--name", "t:one")
    assert (first.data["reused"], again.data["reused"]) == (False, True)
    assert again.data["judged"] == first.data["judged"]
    third = tune("--steps", 2, "--name", "t:one", "--restart")
    assert third.data["reused"] is False
    assert third.data["losses"] == first.data["losses"]  # the seed decides everything


def test_how_it_is_packed_changes_nothing_but_rounding(tune: Tune) -> None:
    whole = tune("--steps", 3, "--lr", 1e-2, "--name", "t:whole", "--max-grad-norm", 0)
    single = tune("--steps", 3, "--lr", 1e-2, "--name", "t:single", "--max-grad-norm", 0,
                  "--pack-tokens", 8)  # fmt: skip
    twice = tune("--steps", 3, "--lr", 1e-2, "--name", "t:twice", "--max-grad-norm", 0,
                 "--checkpointing", "on")  # fmt: skip
    for other in (single, twice):
        assert losses(other.data) == pytest.approx(losses(whole.data), rel=2e-4)


@pytest.mark.parametrize("method", ["rslora", "full", "dora"])
def test_every_method_learns_and_llama_cpp_sees_it(tune: Tune, method: str) -> None:
    done = tune("--method", method, "--steps", 4, "--lr", 3e-3, "--name", f"t:{method}")
    assert done.exit_code == 0, done
    judged = done.data["judged"]
    assert judged["after"]["loss"] < judged["before"]["loss"] - 0.3
    assert judged["after"]["loss"] == pytest.approx(
        done.data["learned"]["held_out_after"], abs=0.05
    )
    # llama.cpp has no DoRA adapters: the result is a whole model then
    assert done.data["kind"] == ("adapter" if method == "rslora" else "model")


def test_a_quantized_base_stays_in_its_bytes_and_learns_the_same(
    tune: Tune, tmp_path: Path
) -> None:
    from tests.support.tiny_models import tiny_llama

    base = tiny_llama(tmp_path / "q8.gguf", dtype="Q8_0")
    kept = tune("--steps", 3, "--lr", 3e-3, "--name", "t:kept", base=base)
    dense = tune(
        "--steps", 3, "--lr", 3e-3, "--name", "t:dense", "--base-weights", "dense", base=base
    )
    assert kept.data["learned"]["base_weights"] == "quantized"
    assert dense.data["learned"]["base_weights"] == "dense"
    assert losses(kept.data) == pytest.approx(losses(dense.data), rel=1e-4)


@pytest.mark.parametrize("objective", ["auto", "orpo"])
def test_preferences(tune: Tune, tmp_path: Path, objective: str) -> None:
    pairs = preferences(tmp_path / "pairs.jsonl", 16)
    done = tune("--objective", objective, "--steps", 5, "--lr", 3e-3, "--name", "t:pairs",
                source=pairs)  # fmt: skip
    assert done.exit_code == 0, done
    assert done.data["objective"] == ("dpo" if objective == "auto" else "orpo")
    found = losses(done.data)
    if objective == "auto":
        assert found[0] == pytest.approx(math.log(2), abs=1e-5)  # nothing differs yet
    assert found[-1] < found[0]
    assert done.data["judged"]["preferred_after"] == 1.0


def test_an_adapter_is_gone_on_from(tune: Tune) -> None:
    first = tune("--steps", 4, "--lr", 3e-3, "--name", "t:first").data
    more = tune("--steps", 2, "--lr", 1e-3, "--name", "t:more", "--adapter", "t:first").data
    assert more["learned"]["held_out_before"] == pytest.approx(
        first["learned"]["held_out_after"], abs=1e-3
    )
    other = tune("--steps", 2, "--name", "t:other", "--adapter", "t:first", "--rank", 4)
    assert other.exit_code == 2
    assert "--rank" in other.json["error"]["hint"]
    scaled = tune("--steps", 2, "--name", "t:other", "--adapter", "t:first:0.5")
    assert (scaled.exit_code, "at no scale" in scaled.json["error"]["message"]) == (2, True)


def test_an_adapter_is_gone_on_from_in_its_own_rank_and_targets(tune: Tune) -> None:
    """Nobody remembers them, and the file says both."""
    small = ("--rank", 4, "--targets", "attention", "--method", "rslora")
    first = tune("--steps", 4, "--lr", 3e-3, "--name", "t:first", *small).data
    more = tune("--steps", 2, "--name", "t:more", "--adapter", "t:first")
    assert more.exit_code == 0, more
    assert more.data["n_params"] == first["n_params"]
    assert (more.data["recipe"]["rank"], more.data["recipe"]["targets"]) == (4, ["attention"])
    assert more.data["learned"]["held_out_before"] == pytest.approx(
        first["learned"]["held_out_after"], abs=1e-3
    )


def test_an_adapter_of_another_base_is_not_gone_on_from_unasked(
    tune: Tune, tmp_path: Path, registry: Registry
) -> None:
    from tests.support.tiny_models import tiny_llama

    assert tune("--steps", 1, "--name", "t:first").exit_code == 0
    other = tiny_llama(tmp_path / "other.gguf", chat_template=None)  # of the same shapes
    options = ("--steps", 1, "--name", "t:more", "--adapter", "t:first")
    refused = tune(*options, base=other)
    assert refused.exit_code == 2
    assert "t:first was trained on" in refused.json["error"]["message"]
    assert "--any-base" in refused.json["error"]["hint"]
    assert [model.name for model in registry.models()] == ["t:first"]
    assert tune(*options, "--any-base", base=other).exit_code == 0


def test_more_kept_back_than_left_is_said(tune: Tune) -> None:
    done = tune("--steps", 1, "--held-out", 40, "--name", "t:held", json=False)
    assert done.exit_code == 0, done
    assert "--held-out 40 keeps 39 of 40 back: 1 to learn from" in done.err


def test_a_recipe_file_and_flags_over_it(tune: Tune, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'name = "t:recipe"\nsteps = 2\nrank = 4\ntargets = ["attention"]\nlr = 1e-3\n'
    )
    recipe.write_bytes(b"\xef\xbb\xbf" + recipe.read_bytes())  # as some editors begin a file
    saved = tmp_path / "saved.toml"
    done = tune("--recipe", recipe, "--rank", 2, "--save-recipe", saved)
    assert done.exit_code == 0, done
    assert (done.data["recipe"]["rank"], done.data["recipe"]["targets"]) == (2, ["attention"])
    # 2 layers of q, k, v and o at rank 2: in + out of each
    assert done.data["n_params"] == 2 * 2 * ((256 + 256) + 2 * (256 + 128) + (256 + 256))
    again = tune("--recipe", saved, "--restart")
    assert again.data["losses"] == done.data["losses"]


def test_a_dry_run_learns_nothing_and_says_what_it_would_take(
    tune: Tune, registry: Registry
) -> None:
    done = tune("--steps", 8, "--dry-run", "--name", "t:dry")
    assert done.exit_code == 0, done
    found = done.data
    assert found["n_steps"] == 8
    assert (found["n_train"], found["n_held_out"]) == (36, 4)
    assert found["peak_bytes"] > 0
    assert found["training_s"] > 0
    assert found["data"]["n_examples"] == 40
    assert registry.models() == ()


def test_what_does_not_fit_is_exit_4_with_what_would(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from localllm.placement import here

    real = here.target_here
    monkeypatch.setattr(
        here, "target_here",
        lambda *a: replace(real(*a), host_available_bytes=760 << 20),
    )  # fmt: skip
    done = tune("--steps", 1, "--name", "t:big", "--pack-tokens", 100_000, "--checkpointing", "off")
    assert done.exit_code == 4, done
    assert "--checkpointing on" in done.json["error"]["hint"]


@pytest.mark.parametrize("n", [1, 10])
def test_hardly_any_rows(tune: Tune, tmp_path: Path, n: int) -> None:
    few = chats(tmp_path / "few.jsonl", n)
    done = tune("--steps", 2, "--name", "t:few", "--held-out", "5%", source=few)
    assert done.exit_code == 0, done
    assert done.data["n_held_out"] == (0 if n == 1 else 1)
    assert (done.data["judged"] is None) is (n == 1)


def test_a_template_that_the_base_lacks_goes_with_the_result(
    tune: Tune, tmp_path: Path, registry: Registry
) -> None:
    from tests.support.tiny_models import tiny_llama

    base = tiny_llama(tmp_path / "bare.gguf", chat_template=None)
    done = tune("--steps", 1, "--name", "t:bare", base=base)
    assert done.exit_code == 0, done
    model = registry.resolve("t:bare")
    assert "im_start" in str(model.extras["chat_template"])
    with Engine.load(base, LoadOptions(vocab_only=True)) as plain:
        assert plain.meta("tokenizer.chat_template") is None


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--rank", 0), 2),
        (("--method", "magic"), 2),
        (("--targets", "nothing"), 2),
        (("--held-out", "200%"), 2),
        (("--resume", "--restart"), 2),
        (("--objective", "dpo"), 2),
        (("--adapter", "nobody"), 3),
        (("--recipe", "nobody.toml"), 3),
    ],
)
def test_bad_options_are_one_line(
    tune: Tune, registry: Registry, options: tuple[object, ...], code: int
) -> None:
    done = tune("--steps", 1, "--name", "t:bad", *options)
    assert done.exit_code == code, done
    assert "\n" not in done.json["error"]["message"]
    assert registry.models() == ()


def test_progress_for_programs_and_a_page(
    cli: Callable[..., Done], tiny_gguf: Path, data: Path, tmp_path: Path
) -> None:
    page = tmp_path / "run.html"
    done = cli("finetune", tiny_gguf, "--data", data, "--steps", 2, "--threads", 1, "--held-out", 4,
               "--precision", "f32", "--name", "t:page", "--report", page, "--json",
               "--progress", "json", "--samples", 1, "--sample-every", 2,
               "--sample-tokens", 3)  # fmt: skip
    assert done.exit_code == 0, done
    events = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    steps = [one for one in events if one["event"] == "step"]
    assert [one["step"] for one in steps] == [1, 2]
    assert {"loss", "learning_rate", "tokens_per_s", "memory_bytes", "grad_norm"} <= set(steps[0])
    assert any(one["event"] == "evaluation" for one in events)
    assert any(one["event"] == "sample" and one["step"] == 2 for one in events)
    text = page.read_text("utf-8")
    assert "t:page" in text
    assert "Loss" in text


def test_a_gpu_that_torch_sees_is_left_alone(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert tune("--steps", 1, "--name", "t:cpu", "--samples", 0).exit_code == 0


def test_ones_own_prompts_are_asked_as_chat_asks(
    tune: Tune, cli: Callable[..., Done], tiny_gguf: Path
) -> None:
    done = tune("--steps", 1, "--name", "t:asked", "--system", "Speak as a sailor.",
                "--sample-prompt", "the red cat")  # fmt: skip
    assert done.exit_code == 0, done
    prompt = done.data["samples"][0]["prompt"]
    # shown without the template's control tokens
    assert prompt == "system\nSpeak as a sailor.\nuser\nthe red cat\nassistant\n"


def test_ones_own_prompts_have_the_presets_system_and_thinking(tiny_gguf: Path) -> None:
    from dataclasses import replace

    from localllm.finetune.recipe import Recipe
    from localllm.finetune.sampling import own_prompts
    from localllm.library.describe import loose_model

    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}"
        "<think></think>{% endif %}{% endif %}"
    )
    extras = {"system": "Be brief.", "chat_template": template}
    model = replace(loose_model(tiny_gguf), extras=extras)
    recipe = Recipe(sample_prompt=("hello",), thinking="off")
    with Engine.load(tiny_gguf, LoadOptions(vocab_only=True)) as engine:
        ids = own_prompts(model, recipe, as_text=False)[0]
        raw = own_prompts(model, recipe, as_text=True)[0]
        text = engine.tokenizer.decode(ids, special=True)
        assert text.endswith("assistant\n<think></think>")
        assert "Be brief." in text
        assert engine.tokenizer.decode(raw).strip() == "hello"


def test_chat_by_the_adapters_name_is_its_base_with_it_attached(
    tune: Tune, cli: Callable[..., Done], tiny_gguf: Path
) -> None:
    assert tune("--steps", 8, "--lr", 5e-3, "--name", "t:chat").exit_code == 0
    ask = ["the red cat", "--temperature", 0, "--max-tokens", 6, "--threads", 1, "--no-stdin",
           "--json"]  # fmt: skip
    base = cli("chat", tiny_gguf, *ask)
    attached = cli("chat", tiny_gguf, *ask, "--lora", "t:chat")
    named = cli("chat", "t:chat", *ask)
    assert named.exit_code == 0, named
    assert named.data["text"] == attached.data["text"] != base.data["text"]
    assert "Aye" in named.data["text"]


def test_an_adapter_whose_base_is_gone_says_which(
    tune: Tune, cli: Callable[..., Done], tmp_path: Path
) -> None:
    from tests.support.tiny_models import tiny_llama

    base = tiny_llama(tmp_path / "gone.gguf", seed=5)
    assert tune("--steps", 1, "--name", "t:orphan", base=base).exit_code == 0
    base.unlink()
    done = cli("chat", "t:orphan", "hello", "--no-stdin", "--json")
    assert done.exit_code == 3, done
    assert "gone.gguf" in done.json["error"]["message"]


def test_tune_merge_quantize_and_verify_in_one_go(
    tune: Tune, registry: Registry, tmp_path: Path
) -> None:
    from tests.support.tiny_models import tiny_llama

    base = tiny_llama(tmp_path / "q4.gguf", dtype="Q4_K")
    options = ["--steps", 8, "--lr", 3e-3, "--name", "t:merge"]
    assert tune(*options, "--merge", "Q9", base=base).exit_code == 2
    done = tune(*options, "--merge", "Q6_K", base=base)
    assert done.exit_code == 0, done
    merged = done.data["merged"]
    assert merged["type"] == "Q6_K"
    assert merged["kept"] > 0.8
    assert merged["loss"] == pytest.approx(done.data["judged"]["after"]["loss"], abs=0.3)
    assert registry.resolve(merged["name"]).file_type == "Q6_K"
    # the base's own type would put the weights back where they were
    lost = tune(*options, "--merge", "Q4_K_M", base=base)
    assert lost.exit_code == 5, lost
    assert lost.data["reused"] is True  # not tuned again
    assert lost.data["merged"] is None  # the one of before is not what was asked for
    assert tune(*options, "--merge", "Q4_K_M", base=base).exit_code == 5
    assert tune("--steps", 1, "--method", "full", "--merge", "F16").exit_code == 2


@pytest.mark.parametrize(
    "name", ["finetune_chat.toml", "finetune_preferences.toml", "finetune_text.toml"]
)
def test_a_shipped_recipe_runs(tune: Tune, tmp_path: Path, name: str) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / name
    source = chats(tmp_path / "chats.jsonl", 24)
    if "preferences" in name:
        source = preferences(tmp_path / "votes.jsonl", 24)
    if "text" in name:
        source = tmp_path / "texts"
        source.mkdir()
        for n in range(3):
            (source / f"{n}.md").write_text(f"# {n}\n\n" + "the red cat sees a dog. " * 40)
    done = tune("--recipe", recipe, "--name", "t:recipe", "--steps", 2, "--max-length", 64,
                source=source)  # fmt: skip
    assert done.exit_code == 0, done
    losses_seen = losses(done.data)
    assert losses_seen[-1] < losses_seen[0]
    if "text" in name:
        assert done.data["learned"]["targets"] > 0.9 * done.data["learned"]["tokens"]
