"""The scheduler from its clients' threads."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.scheduler import (
    Busy,
    DeadlinePassed,
    Event,
    Request,
    Scheduler,
    SchedulerOptions,
    Stopped,
)
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Sampling
from tests.engine.conftest import ONE_THREAD, bare_greedy
from tests.engine.scheduler.conftest import MakeScheduler, assert_greedy, words

GREEDY = Sampling(temperature=0.0, max_tokens=20)
ENDLESS = replace(GREEDY, max_tokens=None)


def eventually(true: object, within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if true():  # type: ignore[operator]
            return True
        time.sleep(0.002)
    return False


@pytest.mark.parametrize("name", ["llama", "gemma", "mamba"])
def test_many_threads_get_what_they_would_get_alone(
    name: str, request: pytest.FixtureRequest, make_scheduler: MakeScheduler
) -> None:
    model: Model = request.getfixturevalue(name)
    scheduler = make_scheduler(model, n_ctx=2048)
    prompts = [words(10 + 9 * i, 10 * i) for i in range(12)]
    found: dict[int, list[int]] = {}

    def ask(i: int) -> None:
        answer = scheduler.submit(Request(prompts[i], GREEDY))
        text = "".join(piece.text for piece in answer)
        assert answer.accounting is not None
        assert answer.accounting.completion_tokens == len(answer.tokens)
        said = b"".join(map(model.tokenizer.piece, answer.tokens)).decode("utf-8", "replace")
        assert said.startswith(text)
        assert len(said) - len(text) <= 1  # an unfinished character at the end
        found[i] = answer.tokens

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, prompt in enumerate(prompts):
        assert_greedy(model, prompt, found[i])
        assert len(found[i]) == 20
    assert scheduler.idle


def test_a_stream_that_is_left_early_is_cancelled(
    llama: Model, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(llama, n_ctx=2048)
    answer = scheduler.submit(Request([298, 104], ENDLESS))
    for i, _ in enumerate(answer):
        if i == 3:
            break
    assert answer.accounting is not None
    assert answer.accounting.finish_reason == "cancelled"
    assert eventually(lambda: scheduler.idle)
    with pytest.raises(EngineError, match="read before"):
        next(iter(answer))


def test_cancelling_ends_a_long_prompt_at_once(llama: Model, make_scheduler: MakeScheduler) -> None:
    """One chunk of the whole prompt: only the abort callback can end it early."""
    scheduler = make_scheduler(llama, n_ctx=6144, n_batch=6144, n_ubatch=6144, n_seq_max=1)
    answer = scheduler.submit(Request(words(6000), replace(GREEDY, max_tokens=1)))
    assert eventually(lambda: scheduler.load.n_running == 1)
    time.sleep(0.05)  # the whole takes seconds
    answer.cancel()
    (one,) = answer.results()
    assert (one.tokens, one.accounting.finish_reason) == ((), "cancelled")
    assert scheduler.load.counters.prompt_tokens == 0
    # and what comes next is right
    (after,) = scheduler.submit(Request(words(30), GREEDY)).results()
    assert_greedy(llama, words(30), after.tokens)


def test_cancelled_while_waiting(llama: Model, make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(llama, n_ctx=2048, n_seq_max=1)
    first = scheduler.submit(Request([298, 104], ENDLESS))
    second = scheduler.submit(Request([298, 105], GREEDY))
    second.cancel()
    (one,) = second.results()
    assert (one.tokens, one.accounting.finish_reason) == ((), "cancelled")
    first.cancel()
    assert first.results()[0].accounting.finish_reason == "cancelled"


def test_too_many_are_refused_with_a_hint(llama: Model, make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(llama, SchedulerOptions(max_waiting=2), n_ctx=2048, n_seq_max=1)
    answers = [scheduler.submit(Request([298, 104], ENDLESS))]
    assert eventually(lambda: scheduler.load.n_running == 1)
    answers += [scheduler.submit(Request([298, 105], GREEDY)) for _ in range(2)]
    with pytest.raises(Busy, match="2 requests are waiting") as refused:
        scheduler.submit(Request([298], GREEDY))
    assert refused.value.retry_after_s > 0
    answers[0].cancel()
    for answer in answers[1:]:
        assert len(answer.results()[0].tokens) > 0


def test_deadlines(llama: Model, make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(llama, n_ctx=2048, n_seq_max=1)
    running = scheduler.submit(Request([298, 104], ENDLESS, deadline_s=0.15))
    waiting = scheduler.submit(Request([298, 105], GREEDY, deadline_s=0.05))
    with pytest.raises(DeadlinePassed, match=r"within 0.05 s"):
        waiting.results()
    with pytest.raises(DeadlinePassed, match=r"within 0.15 s"):
        running.results()
    assert running.accounting is not None
    assert running.accounting.completion_tokens == len(running.tokens) > 0
    in_time = scheduler.submit(Request([298, 105], GREEDY, deadline_s=600))
    assert in_time.results()[0].accounting.finish_reason in ("length", "stop")


def test_a_callback_gets_every_event_on_one_thread(
    llama: Model, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(llama)
    events: list[Event] = []
    threads: set[int] = set()
    done = threading.Event()

    def on_event(event: Event) -> None:
        events.append(event)
        threads.add(threading.get_ident())
        if event.last:
            done.set()

    answer = scheduler.submit(Request([298, 104], GREEDY, logprobs=0), on_event)
    assert done.wait(20)
    assert [e.token for e in events] == bare_greedy(llama, [298, 104], 20)[: len(events)]
    assert all(e.logprobs is not None and e.logprobs.chosen.token == e.token for e in events)
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    with pytest.raises(EngineError, match="callback"):
        next(answer.events())


def test_a_callback_that_raises_harms_nobody_else(
    llama: Model, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(llama)

    def bad(event: Event) -> None:
        raise ValueError("mine")

    broken = scheduler.submit(Request([298, 104], ENDLESS), bad)
    (fine,) = scheduler.submit(Request([298, 105], GREEDY)).results()
    assert_greedy(llama, [298, 105], fine.tokens)
    assert eventually(lambda: scheduler.idle)
    assert isinstance(broken.job.callback_error, ValueError)
    assert scheduler.alive


def test_bad_requests_are_refused_at_once(llama: Model, make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(llama)
    for request in (
        Request([]),
        Request([298], replace(GREEDY, grammar='root ::= "')),
        Request([298], replace(GREEDY, top_p=3.0)),
        Request([298] * 5000),
    ):
        with pytest.raises(UsageProblem):
            scheduler.submit(request)
    with pytest.raises(UsageProblem, match="no single stream"):
        next(iter(scheduler.submit(Request([298], GREEDY, n=2))))
    assert eventually(lambda: scheduler.idle)


def test_an_engine_that_fails_tells_everyone(llama: Model) -> None:
    n_calls = [0]

    def hook(tensor: int, ask: bool) -> bool:
        n_calls[0] += 1
        if n_calls[0] > 2000:
            raise RuntimeError("the device is gone")
        return False

    options = replace(ONE_THREAD, n_seq_max=2, kv_unified=True, eval_hook=hook)
    with Context(llama, options) as context, Scheduler(context) as scheduler:
        answers = [scheduler.submit(Request([298, 104 + i], ENDLESS)) for i in range(5)]
        for answer in answers:
            with pytest.raises(EngineError, match="the device is gone"):
                answer.results()
        assert eventually(lambda: not scheduler.alive)
        with pytest.raises(Stopped, match="the device is gone"):
            scheduler.submit(Request([298], GREEDY))


def test_a_context_closed_beneath_it(llama: Model) -> None:
    context = Context(llama, replace(ONE_THREAD, n_seq_max=2, kv_unified=True))
    scheduler = Scheduler(context)
    answer = scheduler.submit(Request([298, 104], ENDLESS))
    next(answer.events())
    context.close()
    with pytest.raises(EngineError):
        scheduler.submit(Request([298], ENDLESS)).results()
    scheduler.close()


@pytest.mark.parametrize("finish", [True, False])
def test_closing(finish: bool, llama: Model, make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler(llama, n_ctx=2048, n_seq_max=2)
    answers = [scheduler.submit(Request([298, 104 + i], GREEDY)) for i in range(6)]
    scheduler.close(finish=finish)
    reasons = {answer.results()[0].accounting.finish_reason for answer in answers}
    assert reasons <= ({"length", "stop"} if finish else {"cancelled", "length", "stop"})
    with pytest.raises(Stopped, match="closed"):
        scheduler.submit(Request([298], GREEDY))
    assert not scheduler.alive
    scheduler.close()
