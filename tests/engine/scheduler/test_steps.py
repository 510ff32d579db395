"""The loop, step by step: who computes when."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.scheduler.loop import StepLoop
from localllm.engine.scheduler.request import Event, Request
from localllm.engine.scheduler.room import Holding
from localllm.engine.scheduler.slot import Job
from localllm.errors import EngineError, Interrupted, UsageProblem
from localllm.generation import Sampling
from tests.engine.conftest import MakeContext
from tests.engine.scheduler.conftest import assert_greedy, words

GREEDY = Sampling(temperature=0.0, max_tokens=20)


class Desk:
    """Joins requests and keeps what they are told, in order."""

    def __init__(self, context: Context, **options: object) -> None:
        self.loop = StepLoop(context, **options)  # type: ignore[arg-type]
        self.told: list[tuple[int, Event]] = []
        self.jobs: list[Job] = []

    def join(self, prompt: list[int], sampling: Sampling = GREEDY, **request: object) -> int:
        number = len(self.jobs)
        job = Job(
            Request(prompt, sampling, **request),  # type: ignore[arg-type]
            lambda event: self.told.append((number, event)),
        )
        self.jobs.append(job)
        self.loop.check(job.request)
        assert self.loop.may_admit(job)
        self.loop.admit(job, self.loop.samples(job))
        return number

    def steps(self, n: int = 1) -> list[int]:
        """Who was told something in these steps, in order."""
        before = len(self.told)
        for _ in range(n):
            self.loop.step()
        return [number for number, _ in self.told[before:]]

    def run(self) -> None:
        while self.loop.busy:
            self.loop.step()

    def tokens(self, number: int, sample: int = 0) -> list[int]:
        mine = [e for n, e in self.told if n == number and e.sample == sample]
        return [e.token for e in mine if e.token is not None]

    def last(self, number: int) -> Event:
        return [e for n, e in self.told if n == number][-1]


def test_a_prompt_longer_than_a_batch_does_not_hold_up_the_others(
    llama: Model, make_context: MakeContext
) -> None:
    desk = Desk(make_context(llama, n_ctx=2048, n_seq_max=2, n_batch=32, n_ubatch=32))
    short = desk.join([298, 104], replace(GREEDY, max_tokens=6))
    desk.steps()
    long = desk.join(words(200), replace(GREEDY, max_tokens=4))
    # while the long prompt goes in, 31 tokens a step
    assert desk.steps(5) == [short] * 5
    desk.run()
    assert_greedy(llama, words(200), desk.tokens(long))


def test_a_long_prompt_does_not_keep_short_ones_waiting(
    llama: Model, make_context: MakeContext
) -> None:
    desk = Desk(make_context(llama, n_ctx=4096, n_seq_max=4, n_batch=64, n_ubatch=64))
    long = desk.join(words(640))
    desk.steps()
    shorts = [desk.join(words(30, start=i)) for i in range(1, 3)]
    # the long one has its turn, then both short ones fit in a step
    assert desk.steps(2) == shorts
    assert not desk.tokens(long)
    desk.run()
    for number, prompt in (
        (long, words(640)),
        (shorts[0], words(30, 1)),
        (shorts[1], words(30, 2)),
    ):
        assert_greedy(llama, prompt, desk.tokens(number))


def test_many_sequences_take_turns_in_small_batches(
    llama: Model, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, 64 tokens of one pool in a batch take more than twice as long as 63."""
    sizes: list[int] = []
    original = Context.decode

    def decode(self: Context, batch: Any) -> None:
        sizes.append(batch.n_tokens)
        original(self, batch)

    monkeypatch.setattr(Context, "decode", decode)
    desk = Desk(make_context(llama, n_ctx=4096, n_seq_max=70, kv_unified=True))
    numbers = [desk.join(words(3, i), GREEDY) for i in range(70)]
    desk.steps(1)
    assert sizes == [210]
    told = desk.steps(10)
    assert sizes[1:] == [63] * 10
    assert sorted(told) == sorted(numbers * 9)  # nobody more than another
    desk.run()
    for i in (0, 33, 69):
        assert_greedy(llama, words(3, i), desk.tokens(i))


@pytest.mark.parametrize("chunk", [None, 256])
def test_windows_are_computed_one_micro_batch_at_a_time(
    gemma: Model, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, chunk: int | None
) -> None:
    """In longer batches llama.cpp drops what the first micro-batch still has to see, where
    sequences lie among each other: logits were off by 0.6 to 3.1 in 5 of 108 such batches."""
    sizes: list[int] = []
    original = Context.decode

    def decode(self: Context, batch: Any) -> None:
        sizes.append(batch.n_tokens)
        original(self, batch)

    context = make_context(gemma, n_ctx=1024, n_seq_max=4, n_ubatch=64, kv_unified=True)
    desk = Desk(context, chunk=chunk)
    monkeypatch.setattr(Context, "decode", decode)
    prompts = [words(200, i) for i in range(3)]
    numbers = [desk.join(prompt, replace(GREEDY, max_tokens=5)) for prompt in prompts]
    desk.run()
    assert max(sizes) == 64
    for number, prompt in zip(numbers, prompts, strict=True):
        assert_greedy(gemma, prompt, desk.tokens(number))


def test_cancelled_ones_leave_at_the_next_step(llama: Model, make_context: MakeContext) -> None:
    desk = Desk(make_context(llama, n_ctx=1024, n_seq_max=2))
    one, other = desk.join([298, 104]), desk.join([298, 105])
    desk.steps(3)
    desk.jobs[other].cancelled = True
    assert desk.steps().count(other) == 1
    account = desk.last(other).accounting
    assert account is not None
    assert (account.finish_reason, account.completion_tokens) == ("cancelled", 3)
    third = desk.join([298, 106])
    desk.run()
    assert_greedy(llama, [298, 104], desk.tokens(one))
    assert_greedy(llama, [298, 106], desk.tokens(third))
    assert not desk.loop.busy


@pytest.mark.parametrize("name", ["llama", "gemma", "mamba"])
@pytest.mark.parametrize("unified", [True, False])
def test_samples_share_their_prompt(
    name: str, unified: bool, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    context = make_context(model, n_ctx=2048, n_seq_max=4, kv_unified=unified)
    desk = Desk(context)
    other = desk.join(words(20, 4))
    wild = replace(GREEDY, temperature=1.2, top_k=0, seed=5)
    many = desk.join(words(150), wild, n=3)
    desk.run()
    assert_greedy(model, words(20, 4), desk.tokens(other))
    assert desk.loop.counters.prompt_tokens + desk.loop.counters.cached_tokens <= 170 + 3
    answers = [desk.tokens(many, sample) for sample in range(3)]
    assert len({tuple(answer) for answer in answers}) == 3
    for i, answer in enumerate(answers):
        again = Desk(make_context(model, n_ctx=1024, kv_unified=unified))
        alone = again.join(words(150), replace(wild, seed=5 + i))
        again.run()
        assert again.tokens(alone) == answer
    seeds = [e.accounting.seed for n, e in desk.told if n == many and e.accounting]
    assert sorted(seeds) == [5, 6, 7]


def test_logprobs_are_the_models_own(llama: Model, make_context: MakeContext) -> None:
    import numpy as np

    context = make_context(llama)
    context.prefill(words(12))
    row = context.logits().astype(np.float64)
    context.clear()
    desk = Desk(context)
    number = desk.join(
        words(12), replace(GREEDY, max_tokens=1, temperature=3.0, seed=1), logprobs=4
    )
    desk.run()
    found = desk.told[0][1].logprobs
    assert found is not None
    probabilities = np.exp(row) / np.exp(row).sum()
    best = np.argsort(-probabilities)[:4]
    assert [one.token for one in found.top] == best.tolist()
    np.testing.assert_allclose(
        [one.logprob for one in found.top], np.log(probabilities[best]), atol=1e-4
    )
    (token,) = desk.tokens(number)
    assert found.chosen.token == token
    assert abs(found.chosen.logprob - np.log(probabilities[token])) < 1e-4


@pytest.mark.parametrize("name", ["llama", "gemma", "mamba"])
def test_an_aborted_step_is_done_again(
    name: str, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    context = make_context(model, n_ctx=1024, n_seq_max=2)
    desk = Desk(context)
    numbers = [desk.join(words(40, i)) for i in range(2)]
    desk.steps(4)
    context.abort()
    with pytest.raises(Interrupted):
        desk.loop.step()
    context.arm()
    desk.run()
    for i, number in enumerate(numbers):
        assert_greedy(model, words(40, i), desk.tokens(number))


def test_no_one_ends_because_another_was_let_in(llama: Model, make_context: MakeContext) -> None:
    """Three that together want more cells than there are: some wait, all get their answers."""
    context = make_context(llama, n_ctx=256, n_seq_max=3, kv_unified=True)
    desk = Desk(context)
    sampling = replace(GREEDY, max_tokens=110)
    for i in range(3):
        desk.join(words(30, i), sampling)
    desk.run()
    assert desk.loop.counters.preemptions > 0
    for i in range(3):
        assert_greedy(llama, words(30, i), desk.tokens(i))
        account = desk.last(i).accounting
        assert account is not None
        assert account.finish_reason == "length"
        assert account.prompt_tokens == 30


def test_a_failing_grammar_fails_its_own_request(llama: Model, make_context: MakeContext) -> None:
    desk = Desk(make_context(llama, n_ctx=512, n_seq_max=2))
    banned = dict.fromkeys([ord("b"), *llama.tokenizer.eog_tokens], -math.inf)
    grammar = replace(GREEDY, grammar='root ::= "ab"')
    stuck = desk.join([298, 104], grammar, logit_bias=banned)
    fine = desk.join([298, 104])
    desk.run()
    error, account = desk.last(stuck).error, desk.last(stuck).accounting
    assert isinstance(error, EngineError)
    assert "no token of this model can continue the grammar" in error.message
    assert account is not None
    assert account.completion_tokens == len(desk.tokens(stuck)) == 1
    assert_greedy(llama, [298, 104], desk.tokens(fine))
    assert desk.last(fine).error is None


def test_what_cannot_be_asked(llama: Model, make_context: MakeContext) -> None:
    loop = StepLoop(make_context(llama, n_seq_max=2, kv_unified=True))
    for request in (
        Request([]),
        Request([298] * 600),
        Request([-1]),
        Request([10**6]),
        Request([298], n=0),
        Request([298], n=3),
        Request([298], logprobs=101),
        Request([298], logit_bias={10**6: 1.0}),
    ):
        with pytest.raises(UsageProblem):
            loop.check(request)


def test_nothing_stays_where_nothing_is_held(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama, n_ctx=1024, n_seq_max=4, kv_unified=True)
    desk = Desk(context, holding=Holding(cells_share=0.0, saved_bytes=0))
    for i in range(4):
        desk.join(words(20, i), cache_prompt=False)
    desk.run()
    assert desk.loop.memory.book.used == 0
    assert [context.length(i) for i in range(8)] == [0] * 8
