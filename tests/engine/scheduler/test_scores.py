"""A prompt's own logprobs, against llama.cpp asked for every row in one batch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from localllm.engine import native
from localllm.engine.model import Model
from localllm.engine.scheduler import Request, TokenLogprobs
from localllm.errors import UsageProblem
from localllm.generation import Sampling
from tests.engine.scheduler.conftest import MakeScheduler, words

ONE = Sampling(temperature=0, max_tokens=1)


def by_itself(model: Model, tokens: Sequence[int]) -> Any:
    """log softmax of every row: float64 (tokens, vocabulary). Nothing but the binding."""
    llama = native.lib()
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = max(len(tokens), 64)
    params.n_threads = params.n_threads_batch = 1
    context = llama.llama_init_from_model(model.handle, params)
    n_vocab = model.tokenizer.n_vocab
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    batch.n_tokens = len(tokens)
    assert llama.llama_decode(context, batch) == 0
    kind = ctypes.POINTER(ctypes.c_float * n_vocab)
    rows = [
        np.array(ctypes.cast(llama.llama_get_logits_ith(context, i), kind).contents, np.float64)
        for i in range(len(tokens))
    ]
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    table = np.array(rows)
    return table - np.log(np.exp(table).sum(axis=1, keepdims=True))


def assert_scores(model: Model, prompt: Sequence[int], found: Sequence[TokenLogprobs]) -> None:
    wanted = by_itself(model, prompt)
    assert [one.chosen.token for one in found] == list(prompt[1:])
    for at, one in enumerate(found):
        assert one.chosen.logprob == pytest.approx(wanted[at, prompt[at + 1]], abs=2e-2)
        assert one.top[0].logprob == pytest.approx(wanted[at].max(), abs=2e-2)
        assert [t.logprob for t in one.top] == sorted((t.logprob for t in one.top), reverse=True)


def scored(prompt: Sequence[int], **more: Any) -> Request:
    return Request(prompt, more.pop("sampling", ONE), logprobs=2, score_prompt=True, **more)


@pytest.mark.parametrize("name", ["llama", "gemma", "mamba"])
@pytest.mark.parametrize("outputs", [0, 4])
def test_they_are_those_of_the_model(
    name: str, outputs: int, request: pytest.FixtureRequest, make_scheduler: MakeScheduler
) -> None:
    """Also where a step may have four rows of logits only, as a server's; several at once."""
    model: Model = request.getfixturevalue(name)
    scheduler = make_scheduler(model, n_ctx=1024, n_outputs_max=outputs)
    prompts = [words(90), words(7, 3), words(40, 5), words(2)]
    answers = [scheduler.submit(scored(prompt)) for prompt in prompts]
    for prompt, answer in zip(prompts, answers, strict=True):
        events = list(answer.events())
        assert_scores(model, prompt, [one for event in events for one in event.prompt])
        assert events[-1].logprobs is not None


def test_what_is_in_the_cache_is_scored_too(llama: Model, make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(llama, n_ctx=1024)
    prompt = words(60)
    scheduler.submit(Request(prompt, ONE)).results()
    events = list(scheduler.submit(scored(prompt)).events())
    assert_scores(llama, prompt, [one for event in events for one in event.prompt])
    again = list(scheduler.submit(Request([*prompt, 40], ONE)).events())
    assert again[-1].accounting is not None
    assert again[-1].accounting.cached_tokens >= 60  # what was scored is of use to others


def test_a_prompt_can_be_scored_without_an_answer(
    llama: Model, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(llama, n_ctx=1024)
    for n in (1, 30):
        sampling = replace(ONE, max_tokens=0)
        events = list(scheduler.submit(scored(words(n), sampling=sampling)).events())
        assert sum(len(event.prompt) for event in events) == n - 1
        assert events[-1].accounting is not None
        assert events[-1].accounting.completion_tokens == 0
        assert events[-1].accounting.finish_reason == "length"


def test_samples_share_what_is_scored_once(llama: Model, make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(llama, n_ctx=1024)
    events = list(scheduler.submit(scored(words(30), n=3)).events())
    assert_scores(llama, words(30), [one for event in events for one in event.prompt])
    assert sum(event.last for event in events) == 3


def test_who_is_put_aside_is_scored_once(llama: Model, make_scheduler: MakeScheduler) -> None:
    """Answers of others fill the cache meanwhile: what was told is not told again."""
    scheduler = make_scheduler(llama, n_ctx=256, n_outputs_max=4)
    long = Sampling(temperature=0, max_tokens=70)
    others = [scheduler.submit(Request(words(20, i), long, ignore_eog=True)) for i in range(3)]
    prompt = words(110, 9)
    events = list(scheduler.submit(scored(prompt)).events())
    assert_scores(llama, prompt, [one for event in events for one in event.prompt])
    for other in others:
        assert len(other.results()[0].tokens) == 70


def test_nothing_to_score_with(llama: Model, make_scheduler: MakeScheduler) -> None:
    with pytest.raises(UsageProblem, match="logprobs"):
        make_scheduler(llama).submit(Request(words(5), ONE, score_prompt=True))
