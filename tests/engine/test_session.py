"""Generation: the right tokens, the cache, the stops, the account, and every way to end."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.session import Session
from localllm.engine.stream import TokenStream
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Accounting, Sampling
from tests.engine.conftest import ONE_THREAD, MakeContext, bare_greedy, ctrl_c

GREEDY = Sampling(temperature=0.0)


def text_of(stream: TokenStream) -> str:
    return "".join(piece.text for piece in stream)


def account(stream: TokenStream) -> Accounting:
    assert stream.accounting is not None
    return stream.accounting


def greedy_tokens(session: Session, prompt: list[int], n: int) -> list[int]:
    stream = session.stream(prompt, replace(GREEDY, max_tokens=n))
    list(stream)
    return stream.tokens


# --- the right tokens ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "spm", "gemma", "mamba"])
def test_greedy_equals_a_bare_loop(
    name: str, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    session = Session(make_context(model))
    prompt = model.tokenizer.encode("the world is in the hello and to of")
    assert greedy_tokens(session, prompt, 40) == bare_greedy(model, prompt, 40)


def test_a_prompt_of_many_batches(llama: Model, make_context: MakeContext) -> None:
    prompt = llama.tokenizer.encode("ab cd " * 60)
    whole = Session(make_context(llama))
    parts = Session(make_context(llama, n_batch=32, n_ubatch=16))
    assert parts.context.n_batch == 32 < len(prompt)
    assert greedy_tokens(parts, prompt, 8) == greedy_tokens(whole, prompt, 8)


def test_a_seed_repeats_an_answer(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    prompt = llama.tokenizer.encode("hello")
    sampling = Sampling(seed=5, max_tokens=20, temperature=1.5)
    first, second = (session.stream(prompt, sampling) for _ in range(2))
    assert text_of(first) == text_of(second)
    assert first.tokens == second.tokens
    other = session.stream(prompt, replace(sampling, seed=6))
    list(other)
    assert other.tokens != first.tokens
    assert (account(first).seed, account(other).seed) == (5, 6)


def test_several_tokens_make_one_character(
    chain: Callable[[bytes], Model], make_context: MakeContext
) -> None:
    model = chain("a日👍!".encode())
    stream = Session(make_context(model)).stream([ord("a")], GREEDY)
    pieces = list(stream)
    assert [(piece.text, piece.token_count) for piece in pieces] == [("日", 3), ("👍", 4), ("!", 1)]
    assert account(stream).completion_tokens == 3 + 4 + 1 + 1  # the last one ended it


# --- ends ------------------------------------------------------------------------------------


def test_the_model_ends_by_itself(
    chain: Callable[[bytes], Model], make_context: MakeContext
) -> None:
    stream = Session(make_context(chain(b"Hey!"))).stream([ord("H")], GREEDY)
    assert text_of(stream) == "ey!"
    assert account(stream).finish_reason == "stop"


@pytest.mark.parametrize(
    ("stop", "text", "n_tokens"),
    [
        (("def",), "bc", 5),
        (("z", "f"), "bcde", 5),
        (("c", "bc"), "", 2),
        (("xyz",), "bcdefgh", 8),
        (("ghi",), "bcdefgh", 8),  # held back until the model ended, then shown
    ],
)
def test_stop_strings(
    chain: Callable[[bytes], Model],
    make_context: MakeContext,
    stop: tuple[str, ...],
    text: str,
    n_tokens: int,
) -> None:
    session = Session(make_context(chain(b"abcdefgh")))
    stream = session.stream([ord("a")], replace(GREEDY, stop=stop))
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text for piece in pieces)
    assert (account(stream).finish_reason, account(stream).completion_tokens) == ("stop", n_tokens)


@pytest.mark.parametrize(("limit", "text"), [(0, ""), (1, "b"), (3, "bcd")])
def test_max_tokens(
    chain: Callable[[bytes], Model], make_context: MakeContext, limit: int, text: str
) -> None:
    session = Session(make_context(chain(b"abcdefgh")))
    stream = session.stream([ord("a")], replace(GREEDY, max_tokens=limit, stop=("dx",)))
    assert text_of(stream) == text
    assert account(stream).finish_reason == "length"
    assert account(stream).completion_tokens == limit
    assert not account(stream).truncated


def test_the_context_fills_up_to_the_last_place(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama, n_ctx=256)
    assert context.n_ctx_seq == 256
    session = Session(context)
    prompt = [llama.tokenizer.bos or 0] * 250
    stream = session.stream(prompt, GREEDY)
    list(stream)
    found = account(stream)
    assert (found.finish_reason, found.truncated) == ("context", True)
    assert found.completion_tokens == 256 - 250 + 1  # the last needs no place: nothing follows
    assert context.length() == 256


def test_a_prompt_that_fills_the_context(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama, n_ctx=256))
    stream = session.stream([5] * 256, GREEDY)
    list(stream)
    assert (account(stream).finish_reason, account(stream).completion_tokens) == ("context", 1)
    with pytest.raises(UsageProblem, match="the prompt is 257 tokens, the context holds 256") as e:
        session.stream([5] * 257, GREEDY)
    assert e.value.hint is not None
    assert "--ctx" in e.value.hint


def test_prompts_that_cannot_be(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    with pytest.raises(UsageProblem, match="empty"):
        session.stream([], GREEDY)
    with pytest.raises(UsageProblem, match="999999 is no token"):
        session.stream([1, 999_999], GREEDY)


def test_embedding_models_do_not_generate(bert: Model) -> None:
    options = replace(ONE_THREAD, n_ubatch=512, embeddings=True)
    with Context(bert, options) as context, pytest.raises(EngineError, match="does not generate"):
        Session(context)


def test_nan_is_an_error(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama)
    context.prefill([1, 2, 3])
    context.logits_view()[5] = float("nan")
    with pytest.raises(EngineError, match="computes NaN"):
        context.check_logits()


# --- the cache -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma", "mamba"])
def test_the_next_turn_costs_only_its_new_tokens(
    name: str, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    session = Session(make_context(model))
    first = model.tokenizer.encode("hello the world")
    answer = greedy_tokens(session, first, 6)
    # the last token of an answer is not computed before someone needs what follows it
    second = [*first, *answer, *model.tokenizer.encode(" and more", add_special=False)]
    stream = session.stream(second, replace(GREEDY, max_tokens=6))
    list(stream)
    assert account(stream).cached_tokens == len(first) + 5
    assert stream.tokens == bare_greedy(model, second, 6)


@pytest.mark.parametrize("name", ["llama", "gemma", "mamba"])
@given(data=st.data())
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_reuse_of_any_prefix_changes_nothing(
    name: str, data: st.DataObject, request: pytest.FixtureRequest
) -> None:
    """Conversations that go on, go back and begin anew, on one session and on fresh ones.

    Logits, not tokens: batches of other sizes add in another order (up to 0.02 here, where
    logits spread by 2 to 3), which decides between near equals.
    """
    model: Model = request.getfixturevalue(name)
    one = replace(GREEDY, max_tokens=1)
    with Context(model, ONE_THREAD) as context, Context(model, ONE_THREAD) as fresh:
        session = Session(context)
        history = [model.tokenizer.bos or 1]
        for _ in range(data.draw(st.integers(2, 4))):
            keep = data.draw(st.integers(1, len(history)))
            more = data.draw(st.lists(st.integers(32, 126), min_size=1, max_size=90))
            prompt = [*history[:keep], *more][:400]
            stream = session.stream(prompt, one)
            list(stream)
            cached = account(stream).cached_tokens
            assert cached < len(prompt)
            found = context.logits()
            fresh.clear()
            fresh.prefill(prompt)
            np.testing.assert_allclose(found, fresh.logits(), atol=0.08, err_msg=f"{keep} {cached}")
            history = [*prompt, *stream.tokens, *greedy_tokens(session, [*prompt, 65], 3)]


def test_asking_again_computes_one_token(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    prompt = llama.tokenizer.encode("hello world")
    expected = greedy_tokens(session, prompt, 4)
    stream = session.stream(prompt, replace(GREEDY, max_tokens=4))
    list(stream)
    assert account(stream).cached_tokens == len(prompt) - 1
    assert stream.tokens == expected


def test_a_sliding_window_that_has_moved_on_is_not_reused(
    gemma: Model, make_context: MakeContext
) -> None:
    session = Session(make_context(gemma, n_ubatch=32))
    long = [gemma.tokenizer.bos or 1, *range(32, 120), *range(32, 120), *range(32, 120)]
    greedy_tokens(session, long, 2)
    back = [*long[:40], 100, 101, 102]
    stream = session.stream(back, replace(GREEDY, max_tokens=8))
    list(stream)
    assert account(stream).cached_tokens == 0
    assert stream.tokens == bare_greedy(gemma, back, 8)


def test_swa_full_can_go_back_anywhere(gemma: Model, make_context: MakeContext) -> None:
    session = Session(make_context(gemma, n_ubatch=32, swa_full=True))
    long = [gemma.tokenizer.bos or 1, *range(32, 120), *range(32, 120), *range(32, 120)]
    greedy_tokens(session, long, 2)
    back = [*long[:40], 100, 101, 102]
    stream = session.stream(back, replace(GREEDY, max_tokens=8))
    list(stream)
    assert account(stream).cached_tokens == 40
    assert stream.tokens == bare_greedy(gemma, back, 8)


def test_someone_else_cleared_the_context(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    prompt = llama.tokenizer.encode("hello world")
    expected = greedy_tokens(session, prompt, 4)
    session.context.clear()
    assert session.cached_tokens == ()
    assert greedy_tokens(session, prompt, 4) == expected


# --- the account -----------------------------------------------------------------------------


def test_the_account_adds_up(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    prompt = llama.tokenizer.encode("hello world")
    begun = time.perf_counter()
    stream = session.stream(prompt, replace(GREEDY, max_tokens=12))
    assert stream.accounting is None
    pieces = list(stream)
    wall_s = time.perf_counter() - begun
    found = account(stream)
    assert found.prompt_tokens == len(prompt)
    assert found.completion_tokens == 12 == len(stream.tokens)
    assert sum(piece.token_count for piece in pieces) <= 12
    assert 0 < found.prompt_s <= found.first_token_s
    assert found.first_token_s + found.decode_s <= wall_s
    assert found.decode_tps == pytest.approx(11 / found.decode_s)


def test_a_slow_reader_is_not_counted(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    stream = session.stream(llama.tokenizer.encode("hello"), replace(GREEDY, max_tokens=6))
    for _ in stream:
        time.sleep(0.1)
    assert account(stream).decode_s < 0.3  # it slept twice that


# --- stopping it -----------------------------------------------------------------------------


def check_usable(session: Session, model: Model) -> None:
    prompt = model.tokenizer.encode("the hello world")
    assert greedy_tokens(session, prompt, 6) == bare_greedy(model, prompt, 6)


def test_cancel_stops_within_a_token(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    stream = session.stream(llama.tokenizer.encode("hello"), GREEDY)
    for i, _ in enumerate(stream):
        if i == 3:
            stream.cancel()
            said = len(stream.tokens)
    assert len(stream.tokens) == said
    assert account(stream).finish_reason == "cancelled"
    check_usable(session, llama)


def test_cancel_before_reading(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    stream = session.stream(llama.tokenizer.encode("hello"), GREEDY)
    stream.cancel()
    assert list(stream) == []
    assert account(stream).finish_reason == "cancelled"
    check_usable(session, llama)


def big_prompt(model: Model, n: int = 3000) -> list[int]:
    return [model.tokenizer.bos or 1, *(32 + i % 90 for i in range(n))]


@pytest.mark.parametrize("name", ["llama", "gemma", "mamba"])
def test_cancel_from_a_thread_stops_the_prompt(
    name: str, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    session = Session(make_context(model, n_ctx=8192, n_batch=2048, n_ubatch=256))
    prompt = big_prompt(model)
    begun = time.perf_counter()
    session.context.prefill(prompt)
    whole_s = time.perf_counter() - begun
    session.reset()
    stream = session.stream(prompt, GREEDY)
    threading.Timer(whole_s / 10, stream.cancel).start()
    assert list(stream) == []
    assert account(stream).finish_reason == "cancelled"
    assert len(session.cached_tokens) < len(prompt)
    check_usable(session, model)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_ctrl_c_in_the_prompt_leaves_a_usable_session(
    name: str, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    session = Session(make_context(model, n_ctx=8192, n_batch=2048, n_ubatch=256))
    prompt = big_prompt(model)
    begun = time.perf_counter()
    session.context.prefill(prompt)
    whole_s = time.perf_counter() - begun
    session.reset()
    stream = session.stream(prompt, GREEDY)
    with ctrl_c(whole_s / 10), pytest.raises(KeyboardInterrupt):
        list(stream)
    assert account(stream).finish_reason == "cancelled"
    check_usable(session, model)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
@pytest.mark.parametrize("delay_s", [0.001, 0.004, 0.009, 0.02])
def test_ctrl_c_while_generating_leaves_a_usable_session(
    llama: Model, make_context: MakeContext, delay_s: float
) -> None:
    session = Session(make_context(llama, n_ctx=8192))
    stream = session.stream(llama.tokenizer.encode("hello"), GREEDY)
    with ctrl_c(delay_s), pytest.raises(KeyboardInterrupt):
        for _ in stream:
            pass
        time.sleep(5)  # the model ran out of context first
    check_usable(session, llama)


def test_leaving_the_loop_ends_the_stream(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    stream = session.stream(llama.tokenizer.encode("hello"), GREEDY)
    for _ in stream:
        break
    gc.collect()
    assert account(stream).finish_reason == "cancelled"
    check_usable(session, llama)


def test_one_stream_at_a_time(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    prompt = llama.tokenizer.encode("hello")
    first = iter(session.stream(prompt, GREEDY))
    next(first)
    with pytest.raises(EngineError, match="still generating"):
        list(session.stream(prompt, GREEDY))
    del first
    gc.collect()
    check_usable(session, llama)


def test_a_stream_is_read_once(llama: Model, make_context: MakeContext) -> None:
    session = Session(make_context(llama))
    stream = session.stream(llama.tokenizer.encode("hello"), replace(GREEDY, max_tokens=2))
    list(stream)
    with pytest.raises(EngineError, match="read before"):
        list(stream)


def test_closing_the_context_while_it_generates(llama: Model) -> None:
    context = Context(llama, replace(ONE_THREAD, n_ctx=8192))
    stream = Session(context).stream(llama.tokenizer.encode("hello"), GREEDY)
    ended: list[str] = []

    def read() -> None:
        with pytest.raises(EngineError) as caught:
            list(stream)
        ended.append(caught.value.message)

    thread = threading.Thread(target=read)
    thread.start()
    while len(stream.tokens) < 5:
        time.sleep(0.001)
    context.close()
    thread.join(5)
    assert ended == ["this context is closed"]
