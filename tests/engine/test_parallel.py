"""Several sequences in one context: each gets what it would get alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.parallel import generate_many
from localllm.engine.session import Session
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Sampling
from tests.engine.conftest import MakeContext, bare_greedy

TEXTS = ["hello", "the world is", "and to of the in a", "a b c d e f g " * 8, "zzz", "he", "x y"]
GREEDY = Sampling(temperature=0.0, max_tokens=20)


def alone(model: Model, make_context: MakeContext, prompt: list[int], sampling: Sampling) -> str:
    stream = Session(make_context(model)).stream(prompt, sampling)
    return "".join(piece.text for piece in stream)


@pytest.mark.parametrize("name", ["llama", "gemma", "mamba"])
@pytest.mark.parametrize("unified", [False, True])
def test_together_equals_alone(
    name: str, unified: bool, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    prompts = [model.tokenizer.encode(text) for text in TEXTS]
    context = make_context(model, n_ctx=2048, n_seq_max=3, kv_unified=unified)
    found = generate_many(context, prompts, [GREEDY] * len(prompts))
    for prompt, one in zip(prompts, found, strict=True):
        assert list(one.tokens) == bare_greedy(model, prompt, 20)[: len(one.tokens)]
        assert one.accounting.finish_reason in ("length", "stop")
        assert one.accounting.prompt_tokens == len(prompt)
        assert one.accounting.completion_tokens == len(one.tokens)


def test_each_has_its_own_sampler_stops_and_seed(llama: Model, make_context: MakeContext) -> None:
    prompt = llama.tokenizer.encode("hello")
    wild = replace(GREEDY, temperature=1.5, top_k=0)
    samplings = [
        replace(wild, seed=1),
        replace(wild, seed=2),
        replace(wild, seed=1),
        replace(GREEDY, grammar='root ::= "x" [yz]+'),
        replace(GREEDY, max_tokens=3),
    ]
    context = make_context(llama, n_ctx=2048, n_seq_max=5)
    found = generate_many(context, [prompt] * 5, samplings)
    assert found[0].tokens == found[2].tokens != found[1].tokens
    assert found[3].text[0] == "x"
    assert set(found[3].text[1:]) <= {"y", "z"}
    assert len(found[4].tokens) == 3
    assert [one.accounting.seed for one in found[:3]] == [1, 2, 1]


def test_one_at_a_time_draws_as_a_session_does(llama: Model, make_context: MakeContext) -> None:
    prompts = [llama.tokenizer.encode(text) for text in TEXTS[:3]]
    wild = replace(GREEDY, temperature=1.5, seed=3, repeat_penalty=1.3)
    found = generate_many(make_context(llama), prompts, [wild] * 3)
    for prompt, one in zip(prompts, found, strict=True):
        assert one.text == alone(llama, make_context, prompt, wild)


def test_a_full_sequence_and_a_full_cache(llama: Model, make_context: MakeContext) -> None:
    long = [298, *(32 + i % 90 for i in range(200))]
    endless = replace(GREEDY, max_tokens=None)
    own = make_context(llama, n_ctx=512, n_seq_max=2)
    for one in generate_many(own, [long, long], [endless] * 2):
        assert one.accounting.finish_reason == "context"
        assert one.accounting.completion_tokens == own.n_ctx_seq - len(long) + 1
    shared = make_context(llama, n_ctx=512, n_seq_max=2, kv_unified=True)
    # Both want all of it: the second is put aside, and goes on when the first has ended.
    for one in generate_many(shared, [long, long[:-1]], [endless] * 2):
        prompt_tokens = one.accounting.prompt_tokens
        assert one.accounting.finish_reason == "context"
        assert one.accounting.completion_tokens == shared.n_ctx - prompt_tokens + 1
        expected = bare_greedy(llama, long[:prompt_tokens], len(one.tokens))
        assert list(one.tokens) == expected


def test_nothing_asked(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama, n_seq_max=2)
    assert generate_many(context, [], []) == []
    (none,) = generate_many(context, [[298]], [replace(GREEDY, max_tokens=0)])
    assert (none.text, none.tokens, none.accounting.finish_reason) == ("", (), "length")
    with pytest.raises(UsageProblem, match="1 prompts, but 0 samplings"):
        generate_many(context, [[298]], [])
    for wrong in ([], [298] * 600, [-1]):
        with pytest.raises(UsageProblem):
            generate_many(context, [wrong], [GREEDY])


def test_embedders_do_not_generate(bert: Model) -> None:
    from tests.engine.conftest import ONE_THREAD

    with (
        Context(bert, replace(ONE_THREAD, n_ubatch=512, embeddings=True)) as context,
        pytest.raises(EngineError, match="does not generate"),
    ):
        generate_many(context, [[1]], [GREEDY])
