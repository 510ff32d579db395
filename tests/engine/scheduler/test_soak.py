"""Hundreds of requests that join, leave, fail and give up at random: nobody is harmed."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest

from localllm.engine.model import Model
from localllm.engine.scheduler import Busy, Holding, Request, SchedulerOptions
from localllm.errors import EngineError
from localllm.generation import Sampling
from tests.engine.scheduler.conftest import MakeScheduler, assert_greedy, words
from tests.engine.scheduler.test_scheduler import eventually

GREEDY = Sampling(temperature=0.0)
N_THREADS, N_EACH = 6, 25


@pytest.mark.parametrize("name", ["llama", "gemma", "mamba"])
def test_a_crowd(name: str, request: pytest.FixtureRequest, make_scheduler: MakeScheduler) -> None:
    model: Model = request.getfixturevalue(name)
    options = SchedulerOptions(max_waiting=4, holding=Holding(saved_bytes=1 << 20))
    scheduler = make_scheduler(model, options, n_ctx=1024, n_seq_max=4, n_ubatch=64)
    wrong: list[str] = []
    whole: list[tuple[list[int], list[int]]] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(N_EACH):
            try:
                once(rng)
            except Busy:
                continue
            except BaseException as error:  # noqa: BLE001 - told to the main thread
                wrong.append(repr(error))

    def once(rng: random.Random) -> None:
        prompt = words(rng.choice((5, 60, 200)), rng.randrange(3)) + words(rng.randrange(2, 40))
        sampling = replace(GREEDY, max_tokens=rng.randrange(0, 30))
        act = rng.randrange(6)
        if act == 0:  # leaves in the middle
            sampling = replace(sampling, max_tokens=200)
            for i, _ in enumerate(scheduler.submit(Request(prompt, sampling))):
                if i > rng.randrange(5):
                    break
        elif act == 1:  # cancelled from elsewhere
            answer = scheduler.submit(Request(prompt, replace(sampling, max_tokens=200)))
            threading.Timer(rng.random() / 20, answer.cancel).start()
            assert answer.results()[0].accounting.finish_reason in ("cancelled", "length")
        elif act == 2:  # its grammar ends in nothing
            banned = dict.fromkeys([ord("b"), *model.tokenizer.eog_tokens], float("-inf"))
            stuck = replace(sampling, max_tokens=9, grammar='root ::= "ab"')
            answer = scheduler.submit(Request(prompt, stuck, logit_bias=banned))
            with pytest.raises(EngineError, match="grammar"):
                answer.results()
        elif act == 3:  # never read
            scheduler.submit(Request(prompt, replace(sampling, max_tokens=3)))
        else:
            n = rng.randrange(1, 4)
            answer = scheduler.submit(Request(prompt, sampling, n=n))
            for one in answer.results():
                assert one.accounting.finish_reason == "length", one.accounting
                whole.append((prompt, list(one.tokens)))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(N_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(whole) > N_THREADS
    for prompt, tokens in whole:
        assert_greedy(model, prompt, tokens)
    assert eventually(lambda: scheduler.idle)
    context, memory = scheduler.context, scheduler._worker._loop.memory
    assert memory.book.used <= context.n_ctx
    assert memory.store.used_bytes <= 1 << 20
    held = sum(context.length(i) > 0 for i in range(memory.sequences.n_ids))
    assert held == memory.n_held
    scheduler.close()
    assert memory.book.used == 0
    assert [context.length(i) for i in range(memory.sequences.n_ids)] == [
        0
    ] * memory.sequences.n_ids
