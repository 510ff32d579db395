"""Several sequences in one context: each gets what it would get alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.parallel import BatchDecoder, generate_many
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


def test_a_prompt_longer_than_a_batch_does_not_hold_up_the_others(
    llama: Model, make_context: MakeContext
) -> None:
    context = make_context(llama, n_ctx=2048, n_seq_max=2, n_batch=32, n_ubatch=32)
    decoder = BatchDecoder(context)
    short = decoder.join([298, 104], replace(GREEDY, max_tokens=6))
    decoder.step()
    long_prompt = [298, *(32 + i % 90 for i in range(200))]
    long = decoder.join(long_prompt, replace(GREEDY, max_tokens=4))
    order = [step.request for step in decoder.run()]
    assert order[:5] == [short] * 5  # while the long prompt goes in, 31 tokens a step
    assert order[5:] == [long] * 4
    decoder.close()


def test_joining_and_leaving_between_steps(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama, n_ctx=1024, n_seq_max=2)
    decoder = BatchDecoder(context)
    first = decoder.join([298, 104], replace(GREEDY, max_tokens=2))
    second = decoder.join([298, 105], replace(GREEDY, max_tokens=50))
    assert decoder.free == 0
    with pytest.raises(EngineError, match="all 2 sequences are taken"):
        decoder.join([298], GREEDY)
    ended = [step for _ in range(2) for step in decoder.step() if step.accounting]
    assert [step.request for step in ended] == [first]
    third = decoder.join([298, 106], GREEDY)
    decoder.cancel(second)
    steps = list(decoder.run())
    cancelled = [step for step in steps if step.request == second]
    assert len(cancelled) == 1
    assert cancelled[0].accounting is not None
    assert cancelled[0].accounting.finish_reason == "cancelled"
    tokens = [step.token for step in steps if step.request == third]
    assert tokens == bare_greedy(llama, [298, 106], 20)[: len(tokens)]
    decoder.close()


def test_a_full_sequence_and_a_full_cache(llama: Model, make_context: MakeContext) -> None:
    long = [298, *(32 + i % 90 for i in range(200))]
    endless = replace(GREEDY, max_tokens=None)
    own = make_context(llama, n_ctx=512, n_seq_max=2)
    for one in generate_many(own, [long, long], [endless] * 2):
        assert one.accounting.finish_reason == "context"
        assert one.accounting.completion_tokens == own.n_ctx_seq - len(long) + 1
    shared = make_context(llama, n_ctx=512, n_seq_max=2, kv_unified=True)
    first, second = generate_many(shared, [long, long], [endless] * 2)
    assert second.accounting.finish_reason == "context"
    assert first.accounting.finish_reason == "context"
    assert len(second.tokens) < len(first.tokens) == shared.n_ctx - len(long) + 1
    assert first.tokens[: len(second.tokens)] == second.tokens


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
        BatchDecoder(context)
