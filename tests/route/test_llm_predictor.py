"""A language model as the predictor: read by two answers' probabilities, calibrated like others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from localllm.errors import UsageProblem
from localllm.generation import Message
from localllm.registry import Model, Registry
from localllm.registry.routers import Routers
from localllm.route.asking import asker_named
from localllm.route.deciding.explaining import explain_score
from localllm.route.opening import open_router_named
from localllm.route.pool.reading import parse_spec
from localllm.route.predictors.llm import NO, YES, question
from tests.conftest import Done, arrival
from tests.support.tiny_models import tiny_chain, tiny_llama
from tests.support.tuned import registered_adapter

Cli = Callable[..., Done]
PROMPTS = [f"{a} {b} {c}?" for a in ("why", "how", "when") for b in ("is", "was", "will be")
           for c in ("rain", "a prime number", "tea", "the moon", "tax", "bread")]  # fmt: skip


@pytest.fixture
def noise(registry: Registry, tmp_path: Path) -> Model:
    return registry.add(arrival("noise", tiny_llama(tmp_path / "noise.gguf"), architecture="llama"))


def by_hand(model: Model, prompt: str) -> float:
    """The two answers' log-probabilities by their own forward passes, whole and uncached."""
    from localllm.engine.template import ChatTemplate, encode_prompt
    from localllm.placement import PlanOptions, open_model

    opened = open_model(model.path, PlanOptions(n_ctx=2048))
    try:
        template = ChatTemplate.of(opened.model)
        text = template.render([Message("user", question(prompt))]).text
        assert text.endswith("\n")
        found, tokenizer = [], opened.model.tokenizer
        before = list(encode_prompt(tokenizer, text))
        for answer in (YES, NO):
            whole = list(encode_prompt(tokenizer, text + answer))
            assert whole[: len(before)] == before
            opened.context.clear()
            opened.context.prefill(before)
            logits = opened.context.logits().astype(np.float64)
            found.append(logits[whole[len(before)]] - np.logaddexp.reduce(logits))
        return float(found[0] - found[1])
    finally:
        opened.close()


def test_one_pass_says_what_two_do(registry: Registry, noise: Model) -> None:
    asker = asker_named("noise", registry)
    found = asker.log_odds(PROMPTS[:3])
    assert found == pytest.approx([by_hand(noise, one) for one in PROMPTS[:3]], abs=2e-2)
    assert np.ptp(found) > 0.01
    # in whatever order, and beside whatever was asked before
    again = asker.log_odds([PROMPTS[2], "x" * 9000, PROMPTS[0]])
    assert (again[2], again[0]) == pytest.approx((found[0], found[2]), abs=2e-2)


def test_its_name_changes_with_what_it_is(registry: Registry, noise: Model, tmp_path: Path) -> None:
    registered_adapter(registry, noise, tmp_path / "lora", name="tuned", std=0.5)
    plain, tuned, half = (
        asker_named(text, registry) for text in ("noise", "tuned", "noise+tuned:0.5")
    )
    assert len({one.name.rpartition("#")[2] for one in (plain, tuned, half)}) == 3
    odds = [one.log_odds(PROMPTS[:2]) for one in (plain, tuned, half)]
    assert not np.allclose(odds[0], odds[1], atol=1e-2)
    assert not np.allclose(odds[1], odds[2], atol=1e-2)
    assert asker_named(half.name, registry).log_odds(PROMPTS[:2]) == pytest.approx(
        odds[2], abs=1e-6
    )
    with pytest.raises(UsageProblem, match="not the model"):
        asker_named(plain.name.replace("llm/noise", "llm/tuned"), registry)


def labelled(path: Path, odds: np.ndarray) -> Path:
    """The strong one is needed where this model is likelier to say so, but for some."""
    random = np.random.default_rng(0)
    needed = (odds > np.median(odds)) ^ (random.random(len(odds)) < 0.1)
    rows = [{"prompt": p, "outcomes": {"small": int(not n), "big": 1}}
            for p, n in zip(PROMPTS, needed, strict=True)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def create(cli: Cli) -> None:
    made = cli("route", "create", "mine", "--member", "small=noise", "--member", "big=noise")
    assert made.exit_code == 0, made


def test_trained_calibrated_and_given_away(
    cli: Cli, registry: Registry, noise: Model, tmp_path: Path
) -> None:
    asker = asker_named("noise", registry)
    odds = asker.log_odds(PROMPTS)
    data = labelled(tmp_path / "a.jsonl", odds)
    create(cli)
    train = ["route", "train", "mine", "--data", data]
    assert "which" in cli(*train, "--predictor", "llm").err
    assert "not for" in cli(*train, "--model", "noise").err
    done = cli(*train, "--predictor", "llm", "--model", "noise", "--json")
    assert done.exit_code == 0, done
    assert done.data["apgr"] > 0.65 and done.data["predictor"] == "llm"
    router = open_router_named(registry, "mine").router
    assert router is not None
    p = router.probabilities(PROMPTS)
    assert (np.argsort(p) == np.argsort(odds)).mean() > 0.9
    told = explain_score(router, f"{PROMPTS[0]} {PROMPTS[5]}")
    assert sum(part.amount for part in told.parts) == pytest.approx(told.score)
    assert told.method == "occlusion" and len(told.words) == 2
    path = tmp_path / "mine.zip"
    assert cli("route", "calibrate", "mine", "--strong-share", "30%").exit_code == 0
    assert cli("route", "export", "mine", path).exit_code == 0
    assert cli("route", "import", path, "--name", "copy").exit_code == 0
    copy = open_router_named(registry, "copy")
    assert copy.router is not None
    assert copy.router.probabilities(PROMPTS[:3]) == pytest.approx(p[:3], abs=1e-3)
    made = parse_spec(Routers(registry).find("copy").current.text(), "copy")[1]
    assert (made["predictor"], made["model"]) == ("llm", "noise")
    for prompt in PROMPTS:
        assert prompt.encode() not in path.read_bytes()


def test_one_that_cannot_tell_gives_every_prompt_the_same(
    cli: Cli, registry: Registry, noise: Model, tmp_path: Path
) -> None:
    """A model whose next word depends on the last one only."""
    deaf = tiny_chain(tmp_path / "d.gguf", {10: 97})
    registry.add(arrival("deaf", deaf, architecture="llama"))
    data = labelled(tmp_path / "a.jsonl", np.arange(len(PROMPTS)))
    create(cli)
    done = cli("route", "train", "mine", "--data", data, "--predictor", "llm", "--model", "deaf")
    assert done.exit_code == 0, done
    router = open_router_named(registry, "mine").router
    assert router is not None and np.ptp(router.probabilities(PROMPTS)) < 1e-6


@pytest.mark.model
def test_a_real_model(registry: Registry, real_gguf: Path) -> None:
    registry.add(arrival("gemma", real_gguf, architecture="gemma3"))
    asker = asker_named("gemma", registry)
    hard = "Prove that infinitely many primes are 3 mod 4, and generalize it to progressions."
    prompts = ["What is 2 + 2?", "Say hello.", hard, "y" * 20_000]
    found = asker.log_odds(prompts)
    assert np.isfinite(found).all() and np.ptp(found) > 0.05
    assert asker.log_odds(prompts[:1]) == pytest.approx(found[:1], abs=0.05)
