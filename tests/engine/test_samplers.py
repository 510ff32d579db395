"""The rarer samplers on real logits, against numpy's own computation of what they leave."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.sampling import Sampler
from localllm.errors import UsageProblem
from localllm.generation import Sampling
from tests.engine.conftest import MakeContext

OFF = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


@pytest.fixture
def ready(llama: Model, make_context: MakeContext) -> Context:
    """A context with the logits of a prompt in it."""
    context = make_context(llama)
    context.prefill(llama.tokenizer.encode("the world"))
    return context


def drawn(context: Context, sampling: Sampling, n: int = 400) -> dict[int, int]:
    """How often each token was the first drawn, over `n` seeds."""
    found: dict[int, int] = {}
    for seed in range(n):
        with Sampler(context.model.tokenizer, replace(sampling, seed=seed)) as sampler:
            token = sampler.sample(context)
        found[token] = found.get(token, 0) + 1
    return found


def logits_of(context: Context) -> Any:
    return context.logits().astype(np.float64)


def softmax(logits: Any) -> Any:
    p = np.exp(logits - logits.max())
    return p / p.sum()


def test_top_n_sigma_keeps_what_is_near_the_maximum(ready: Context) -> None:
    logits = logits_of(ready)
    near = set(np.flatnonzero(logits >= logits.max() - 0.5 * logits.std()).tolist())
    assert 1 < len(near) < 50
    assert set(drawn(ready, replace(OFF, top_n_sigma=0.5))) == near


def test_xtc_takes_the_likeliest_away(ready: Context) -> None:
    p = softmax(logits_of(ready))
    order = np.argsort(-p)
    threshold = float(p[order[3]])  # four are at least as likely; the last of them stays
    found = drawn(ready, replace(OFF, top_k=8, xtc_probability=1.0, xtc_threshold=threshold / 2))
    kept = softmax(logits_of(ready)[order[:8]])
    above = np.flatnonzero(kept >= threshold / 2)
    assert set(found) == set(order[above[-1] : 8].tolist())
    never = drawn(ready, replace(OFF, top_k=8, xtc_probability=1.0, xtc_threshold=0.6), 100)
    assert int(order[0]) in never


def test_xtc_on_a_vocabulary_with_a_shortlist(llama: Model, make_context: MakeContext) -> None:
    with Sampler(llama.tokenizer, replace(OFF, top_k=8, xtc_probability=0.5)) as sampler:
        assert sampler._shortlist is None


def test_dynamic_temperature_follows_the_entropy(ready: Context) -> None:
    logits = np.sort(logits_of(ready))[::-1][:10]
    p = softmax(logits)
    entropy = -float((p * np.log(p)).sum()) / math.log(10)
    low, high, exponent = 0.4, 1.6, 2.0
    temperature = low + (high - low) * entropy**exponent
    expected = softmax(logits / temperature)
    n = 3000
    found = drawn(
        ready, replace(OFF, top_k=10, dynatemp_range=0.6, dynatemp_exponent=exponent), n
    )  # temperature 1 +- 0.6
    order = np.argsort(-logits_of(ready))
    for place in (0, 1):
        q = float(expected[place])
        share = found[int(order[place])] / n
        assert share == pytest.approx(q, abs=5 * math.sqrt(q * (1 - q) / n))


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_mirostat_2_drops_surprises(ready: Context, tau: float) -> None:
    p = softmax(logits_of(ready))
    allowed = set(np.flatnonzero(-np.log2(p) <= 2 * tau).tolist()) or {int(p.argmax())}
    found = drawn(ready, replace(OFF, top_k=1, mirostat=2, mirostat_tau=tau), 300)
    assert set(found) <= allowed
    assert len(allowed) > 20 or set(found) == allowed


def test_mirostat_1_takes_the_k_that_its_paper_computes(ready: Context) -> None:
    p = np.sort(softmax(logits_of(ready)))[::-1]
    tau, i = 1.0, np.arange(99)
    t = np.log((i + 2) / (i + 1))
    s = float((t * np.log(p[i] / p[i + 1])).sum() / (t * t).sum())
    k = ((s - 1) * 2 ** (2 * tau) / (1 - len(p) ** (1 - s))) ** (1 / s)
    top = np.argsort(-logits_of(ready))[: max(int(k), 1)]
    found = drawn(ready, replace(OFF, mirostat=1, mirostat_tau=tau), 300)
    assert set(found) == set(top.tolist())


def test_dry_makes_a_repetition_dearer_the_longer_it_is(ready: Context) -> None:
    """After `a b c ... a b` the token c is penalized by multiplier * base ** (2 - allowed)."""
    best = int(np.argmax(logits_of(ready)))
    others = [token for token in range(100, 200) if token != best]
    a, b, between = others[0], others[1], others[2]
    logits = logits_of(ready)
    gap = float(logits[best] - np.sort(logits)[-2])
    greedy = Sampling(temperature=0, dry_allowed_length=1, dry_base=2.0, dry_sequence_breakers=())

    def choice(multiplier: float, prompt: list[int]) -> int:
        sampling = replace(greedy, dry_multiplier=multiplier)
        with Sampler(ready.model.tokenizer, sampling, n_ctx=64) as sampler:
            sampler.accept_prompt(prompt)
            return sampler.sample(ready)

    prompt = [a, b, best, between, a, b]  # two tokens are repeated before `best`
    assert choice(gap / 2 * 0.9, prompt) == best  # gap / 2 * 0.9 * 2 ** (2 - 1) < gap
    assert choice(gap / 2 * 1.1, prompt) != best
    assert choice(gap / 2 * 1.1, [a, b, best, between, b]) == best  # one token: no penalty yet


def test_a_sequence_breaker_ends_a_repetition(ready: Context) -> None:
    best = int(np.argmax(logits_of(ready)))
    breaker = ready.model.tokenizer.encode("*", add_special=False)[0]
    other = next(t for t in range(100, 200) if t not in (best, breaker))
    prompt = [other, breaker, best, 99, other, breaker]
    chosen = {}
    for breakers in ((), ("*",)):
        sampling = Sampling(
            temperature=0, dry_multiplier=100.0, dry_allowed_length=1,
            dry_sequence_breakers=breakers,
        )  # fmt: skip
        with Sampler(ready.model.tokenizer, sampling, n_ctx=64) as sampler:
            sampler.accept_prompt(prompt)
            chosen[breakers] = sampler.sample(ready)
    assert chosen[()] != best
    assert chosen[("*",)] == best


def test_penalties_count_what_was_said(ready: Context) -> None:
    logits = logits_of(ready)
    best, second = np.argsort(-logits)[:2].tolist()
    gap = float(logits[best] - logits[second])
    for field, said, factor in (
        ("presence_penalty", 3, 1.0),
        ("frequency_penalty", 3, 3.0),
    ):
        for over, expected in ((0.99, best), (1.01, second)):
            sampling = Sampling(temperature=0, **{field: gap * over / factor})
            with Sampler(ready.model.tokenizer, sampling) as sampler:
                sampler.accept_prompt([best] * said)
                assert sampler.sample(ready) == expected


@pytest.mark.parametrize(
    "wrong",
    [{"dry_multiplier": -1.0}, {"dry_base": 0.5}, {"xtc_probability": 2.0}, {"mirostat": 3},
     {"mirostat_tau": math.nan}, {"dynatemp_range": -0.1}, {"top_n_sigma": math.inf},
     {"dry_penalty_last_n": -2}, {"dry_sequence_breakers": ("x",) * 65}],
)  # fmt: skip
def test_values_without_a_meaning(llama: Model, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageProblem):
        Sampler(llama.tokenizer, replace(Sampling(), **wrong))


def test_control_tokens_come_out_where_they_are_wanted(llama: Model) -> None:
    tokenizer = llama.tokenizer
    mark = tokenizer.token_id("<|im_start|>")
    assert mark is not None
    assert tokenizer.piece(mark) == b""
    assert tokenizer.special_piece(mark) == b"<|im_start|>"
    assert tokenizer.special_piece(72) == tokenizer.piece(72)
