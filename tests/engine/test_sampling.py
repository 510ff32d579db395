"""The sampler chain: what each setting does to real logits."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.sampling import Sampler
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Sampling
from tests.engine.conftest import MakeContext

OFF = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


@pytest.fixture
def ready(llama: Model, make_context: MakeContext) -> Context:
    """A context with the logits of a prompt in it."""
    context = make_context(llama)
    context.prefill(llama.tokenizer.encode("the world"))
    return context


def draw(
    context: Context, sampling: Sampling, n: int, logit_bias: dict[int, float] | None = None
) -> Counter[int]:
    found: Counter[int] = Counter()
    for seed in range(n):
        sampler = Sampler(context.model.tokenizer, replace(sampling, seed=seed), logit_bias)
        found[sampler.sample(context)] += 1
        sampler.close()
    return found


def test_greedy_is_the_largest_logit(ready: Context) -> None:
    best = int(np.argmax(ready.logits()))
    assert draw(ready, Sampling(temperature=0), 3) == {best: 3}
    assert draw(ready, replace(OFF, top_k=1), 3) == {best: 3}
    assert draw(ready, replace(OFF, top_p=1e-9), 3) == {best: 3}
    assert draw(ready, replace(OFF, min_p=1.0), 3) == {best: 3}


def test_the_same_seed_draws_the_same(ready: Context) -> None:
    assert draw(ready, OFF, 50) == draw(ready, OFF, 50)


def test_a_seed_is_drawn_and_told(ready: Context) -> None:
    one, two = (Sampler(ready.model.tokenizer, OFF) for _ in range(2))
    assert one.seed != two.seed
    again = Sampler(ready.model.tokenizer, replace(OFF, seed=one.seed))
    assert one.sample(ready) == again.sample(ready)


def test_draws_follow_the_softmax(ready: Context) -> None:
    logits = ready.logits().astype(np.float64) / 0.7
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    n = 3000
    found = draw(ready, replace(OFF, temperature=0.7), n)
    for token in np.argsort(expected)[-3:]:
        p = expected[token]
        assert found[int(token)] / n == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n))


def test_top_k_and_top_p_and_min_p_cut_where_they_should(ready: Context) -> None:
    logits = ready.logits().astype(np.float64)
    order = np.argsort(-logits)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    nucleus = order[: int(np.searchsorted(np.cumsum(p[order]), 0.5)) + 1]
    near = np.flatnonzero(p >= 0.3 * p.max())
    assert set(draw(ready, replace(OFF, top_k=4), 400)) == set(order[:4].tolist())
    assert set(draw(ready, replace(OFF, top_p=0.5), 600)) <= set(nucleus.tolist())
    assert set(draw(ready, replace(OFF, min_p=0.3), 600)) <= set(near.tolist())


def test_logit_bias(ready: Context) -> None:
    best = int(np.argmax(ready.logits()))
    greedy = Sampling(temperature=0)
    assert best not in draw(ready, greedy, 1, logit_bias={best: -math.inf})
    assert draw(ready, greedy, 1, logit_bias={7: 1000.0}) == {7: 1}


def test_penalties_see_the_prompt_and_what_was_said(ready: Context) -> None:
    tokenizer = ready.model.tokenizer
    best, second = (int(token) for token in np.argsort(-ready.logits())[:2])
    sampler = Sampler(tokenizer, Sampling(temperature=0, presence_penalty=100.0))
    assert [sampler.sample(ready), sampler.sample(ready)] == [best, second]
    warned = Sampler(tokenizer, Sampling(temperature=0, presence_penalty=100.0))
    warned.accept_prompt([best])
    assert warned.sample(ready) == second
    forgetful = Sampler(tokenizer, Sampling(temperature=0, presence_penalty=100.0, repeat_last_n=1))
    forgetful.accept_prompt([best, second])
    assert forgetful.sample(ready) == best


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": -0.5},
        {"typical_p": 2.0},
        {"repeat_penalty": 0.0},
        {"repeat_penalty": math.nan},
        {"frequency_penalty": math.inf},
        {"seed": -1},
        {"seed": 2**32 - 1},
        {"repeat_last_n": -2},
        {"max_tokens": -1},
    ],
)
def test_values_without_a_meaning(llama: Model, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageProblem, match=next(iter(wrong))):
        Sampler(llama.tokenizer, replace(OFF, **wrong))  # type: ignore[arg-type]


def test_a_grammar_leaves_only_what_it_allows(ready: Context) -> None:
    for temperature in (0.0, 1.0):
        found = draw(ready, replace(OFF, temperature=temperature, grammar="root ::= [ab]"), 40)
        assert set(found) <= {ord("a"), ord("b")}


def test_a_grammar_chooses_as_the_chain_would_among_what_it_allows(ready: Context) -> None:
    logits = ready.logits()
    allowed = [ord(c) for c in "pqrst"]
    best = max(allowed, key=lambda token: float(logits[token]))
    found = draw(ready, Sampling(temperature=0, grammar="root ::= [p-t]"), 1)
    assert found == {best: 1}


def test_a_finished_grammar_ends_the_text(ready: Context) -> None:
    tokenizer = ready.model.tokenizer
    sampler = Sampler(tokenizer, Sampling(temperature=0, grammar='root ::= "a"'))
    assert sampler.sample(ready) == ord("a")
    assert sampler.sample(ready) in tokenizer.eog_tokens


def test_a_grammar_that_no_token_fits_is_an_error_not_a_crash(ready: Context) -> None:
    tokenizer = ready.model.tokenizer
    banned = dict.fromkeys([ord("a"), *tokenizer.eog_tokens], -math.inf)
    sampler = Sampler(tokenizer, Sampling(temperature=0, grammar='root ::= "a"'), banned)
    with pytest.raises(EngineError, match="no token of this model can continue the grammar"):
        for _ in range(3):
            sampler.sample(ready)


def test_suppressed_tokens_of_the_file_are_never_drawn(ready: Context) -> None:
    assert ready.model.tokenizer.suppressed == ()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0),
        Sampling(),
        replace(OFF, top_k=1),
        replace(OFF, top_k=7, temperature=1.7),
        replace(OFF, top_k=128, typical_p=0.9),
    ],
)
def test_the_shortlist_chooses_what_the_whole_row_would(
    llama: Model,
    make_context: MakeContext,
    monkeypatch: pytest.MonkeyPatch,
    sampling: Sampling,
) -> None:
    """Over rows of every shape: flat, peaked, tied, and with -inf and NaN in them."""
    context, tokenizer = make_context(llama), llama.tokenizer
    context.prefill(tokenizer.encode("the world"))
    row = context.logits_view()
    real = row.copy()
    spread = np.random.default_rng(5)
    shapes = [
        *(real * scale for scale in (1.0, 0.001, 50.0)),
        *(spread.standard_normal(len(row)).astype(np.float32) * 4 for _ in range(20)),
        np.where(spread.random(len(row)) < 0.8, -np.inf, real),
        np.where(np.arange(len(row)) == 17, 1e30, real),
    ]
    for seed, shape in enumerate(shapes):
        row[:] = shape
        seeded = replace(sampling, seed=seed)
        whole = Sampler(tokenizer, seeded)
        monkeypatch.setattr("localllm.engine.shortlist.MIN_VOCAB", 1)
        short = Sampler(tokenizer, seeded)
        monkeypatch.undo()
        expected = [whole.sample(context) for _ in range(15)]
        assert [short.sample(context) for _ in range(15)] == expected
    row[:] = real


@pytest.mark.parametrize("n_vocab", [16_384, 50_257, 151_936, 262_145])
def test_a_shortlist_holds_the_top_k_and_little_else(n_vocab: int) -> None:
    from localllm.engine.shortlist import Shortlist

    spread = np.random.default_rng(n_vocab)
    for k in (1, 40, 128):
        row = spread.standard_normal(n_vocab).astype(np.float32)
        row[-1] = 30.0  # what is left over behind whole blocks counts too
        near = Shortlist(k, False, n_vocab)._near(row)
        assert list(near) == sorted(near)
        assert set(np.argsort(-row)[:k]) <= set(near.tolist())
        assert len(near) <= 2 * k
    for bad in (np.nan, np.inf):
        row[17] = bad
        assert Shortlist(40, False, n_vocab)._near(row) is None
    assert Shortlist(40, False, n_vocab)._near(np.zeros(n_vocab, np.float32)) is None  # all equal
    row[:] = -np.inf
    row[:39] = 1.0
    assert Shortlist(40, False, n_vocab)._near(row) is None


def test_a_shortlist_is_for_chains_that_begin_with_top_k(llama: Model) -> None:
    from localllm.engine.shortlist import Shortlist

    big = 300_000
    assert Shortlist.of(Sampling(), big) is not None
    assert Shortlist.of(Sampling(temperature=0, top_k=0), big) is not None
    assert Shortlist.of(OFF, big) is None
    assert Shortlist.of(replace(OFF, top_k=1000), big) is None
    assert Shortlist.of(Sampling(), 300) is None
