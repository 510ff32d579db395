"""A beginning that was computed once is not computed again, and gives the same answers."""

from __future__ import annotations

import math
from array import array
from dataclasses import replace

import pytest

from localllm.engine.model import Model
from localllm.engine.scheduler.prefix import Saved, Store, common_length
from localllm.engine.scheduler.room import Holding
from localllm.generation import Sampling
from tests.engine.conftest import MakeContext
from tests.engine.scheduler.conftest import assert_greedy, words
from tests.engine.scheduler.test_steps import Desk

GREEDY = Sampling(temperature=0.0, max_tokens=8)
MODELS = ["llama", "gemma", "mamba"]


def cached(desk: Desk, number: int) -> int:
    account = desk.last(number).accounting
    assert account is not None
    return account.cached_tokens


def test_common_length() -> None:
    base = array("i", range(1000))
    for n in (0, 1, 2, 15, 16, 17, 18, 47, 48, 49, 500, 998, 999):
        other = base[:]
        other[n] = -1
        assert common_length(base, other, 1000) == n
        assert common_length(base, other, 20) == min(n, 20)
        assert common_length(base, base[:n], 1000) == n
    assert common_length(base, base, 1000) == 1000


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_conversation_goes_on(
    name: str, unified: bool, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    desk = Desk(make_context(model, n_ctx=2048, n_seq_max=2, kv_unified=unified))
    prompt, n_before = words(150), 1
    for turn in range(4):
        number = desk.join(prompt, GREEDY)
        desk.run()
        answer = desk.tokens(number)
        assert_greedy(model, prompt, answer)
        # all but the answer's last token, which was never fed
        assert cached(desk, number) == n_before - 1
        n_before = len(prompt) + len(answer)
        prompt = [*prompt, *answer, *words(40, turn)]


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_system_prompt_is_computed_once_for_those_who_come_after(
    name: str, unified: bool, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    """Of windows and states the second request to part somewhere marks the place."""
    model: Model = request.getfixturevalue(name)
    desk = Desk(make_context(model, n_ctx=4096, n_seq_max=4, kv_unified=unified))
    system = words(200)
    for i in range(4):
        prompt = [*system, *words(120, i + 1)[1:]]
        number = desk.join(prompt, replace(GREEDY, max_tokens=30))
        desk.run()
        assert_greedy(model, prompt, desk.tokens(number))
        if i >= (1 if name == "llama" else 2) and (unified or name == "llama"):
            assert cached(desk, number) == 200


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_system_prompt_is_computed_once_for_those_who_come_together(
    name: str, unified: bool, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    desk = Desk(make_context(model, n_ctx=4096, n_seq_max=4, kv_unified=unified))
    system = words(300)
    prompts = [[*system, *words(30, i + 1)[1:]] for i in range(4)]
    numbers = [desk.join(prompt, replace(GREEDY, max_tokens=40)) for prompt in prompts]
    desk.run()
    for number, prompt in zip(numbers, prompts, strict=True):
        assert_greedy(model, prompt, desk.tokens(number))
        assert len(desk.tokens(number)) == 40
    assert [cached(desk, number) for number in numbers] == [0, 300, 300, 300]
    assert desk.loop.counters.prompt_tokens == 300 + 4 * 29


def test_who_follows_a_prompt_that_is_cancelled_goes_on(
    gemma: Model, make_context: MakeContext
) -> None:
    desk = Desk(make_context(gemma, n_ctx=4096, n_seq_max=4, kv_unified=True))
    first = desk.join(words(600), GREEDY)
    second = desk.join([*words(500), 40, 41], GREEDY)
    desk.steps(2)
    desk.jobs[first].cancelled = True
    desk.run()
    assert_greedy(gemma, [*words(500), 40, 41], desk.tokens(second))
    assert len(desk.tokens(second)) == 8


def test_windows_do_not_run_out_of_cells(gemma: Model, make_context: MakeContext) -> None:
    """Copies of a long beginning would hold on to cells that everyone's windows need."""
    context = make_context(gemma, n_ctx=4096, n_seq_max=4, kv_unified=True, n_ubatch=32)
    desk = Desk(context)
    system = words(400)
    for round_ in range(3):
        prompts = [[*system, *words(60, 7 * round_ + i + 1)[1:]] for i in range(4)]
        numbers = [desk.join(prompt, replace(GREEDY, max_tokens=100)) for prompt in prompts]
        desk.run()
        for number, prompt in zip(numbers, prompts, strict=True):
            assert_greedy(gemma, prompt, desk.tokens(number))
    assert desk.loop.counters.preemptions == 0


def test_the_longest_unused_goes_first(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama, n_ctx=1024, n_seq_max=2, kv_unified=True)
    desk = Desk(
        context, holding=Holding(cells_share=0.4, saved_bytes=0)
    )  # 409 cells: three of these

    def ask(start: int) -> int:
        number = desk.join([290 + start, *words(120, start)], GREEDY)
        desk.run()
        assert desk.loop.memory.book.used <= 409
        return cached(desk, number)

    assert [ask(i) for i in (1, 2, 3)] == [0, 0, 0]
    assert [ask(i) for i in (1, 3)] == [120, 120]
    assert ask(4) == 0  # 2 goes
    assert [ask(i) for i in (1, 3)] == [120, 120]
    assert ask(2) == 0


def test_what_is_held_makes_room(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama, n_ctx=512, n_seq_max=2, kv_unified=True)
    desk = Desk(context, holding=Holding(cells_share=1.0, saved_bytes=0))
    for i in range(6):
        number = desk.join(words(200, i), replace(GREEDY, max_tokens=60))
        desk.run()
        assert_greedy(llama, words(200, i), desk.tokens(number))
        assert desk.loop.memory.book.used <= 512
    assert desk.loop.counters.preemptions == 0


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_what_leaves_its_cells_comes_back_from_main_memory(
    name: str, unified: bool, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    """More conversations than slots, and than cells, each going on in its turn."""
    model: Model = request.getfixturevalue(name)
    context = make_context(model, n_ctx=1024, n_seq_max=2, kv_unified=unified)
    desk = Desk(context, holding=Holding(cells_share=0.3, save_worth=math.inf))
    prompts = [[290 + i, *words(100, i)] for i in range(5)]
    for turn in range(3):
        for i, prompt in enumerate(prompts):
            number = desk.join(prompt, GREEDY)
            desk.run()
            answer = desk.tokens(number)
            assert_greedy(model, prompt, answer)
            assert cached(desk, number) == (len(prompt) - 11 if turn else 0)
            prompts[i] = [*prompt, *answer, *words(10, turn)]
    assert desk.loop.memory.store.used_bytes > 0


def test_what_is_held_gives_way_to_who_is_at_work(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama, n_ctx=4096, n_seq_max=4, kv_unified=True)
    desk = Desk(context, holding=Holding(active_share=0.5, save_worth=math.inf))
    for i in range(6):
        desk.join([290 + i, *words(200, i)], GREEDY)
        desk.run()
    memory = desk.loop.memory
    assert memory.n_held >= 1
    desk.join([297, *words(100, 7)], replace(GREEDY, max_tokens=50))
    desk.steps(2)
    before = memory.n_held
    desk.join([297, 297, *words(300, 7)], replace(GREEDY, max_tokens=50))
    desk.steps(4)
    assert memory.n_held <= before
    desk.run()
    last = desk.join([290, *words(200), 40], GREEDY)
    desk.run()
    assert cached(desk, last) == 201
    assert_greedy(llama, [290, *words(200), 40], desk.tokens(last))


def test_without_cache_nothing_is_used_or_left(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama, n_ctx=1024, n_seq_max=2, kv_unified=True)
    desk = Desk(context)
    for _ in range(2):
        number = desk.join(words(100), GREEDY, cache_prompt=False)
        desk.run()
        assert cached(desk, number) == 0
    assert desk.loop.memory.n_held == 0
    assert desk.loop.memory.book.used == 0


def test_what_is_saved_keeps_to_its_bytes() -> None:
    store = Store(100)
    saved = [Saved(array("i", range(i + 1)), (), bytes(40), whole=True) for i in range(5)]
    for one in saved:
        store.add(one)
    assert list(store) == saved[3:]
    store.touch(saved[3])
    store.add(saved[0])
    assert list(store) == [saved[3], saved[0]]
    assert store.used_bytes == 80
    store.add(Saved(array("i", range(9)), (), bytes(60), whole=True))  # more than half
    assert store.used_bytes == 80
    assert store.has(array("i", [0]), (), whole=True)
    assert not store.has(array("i", [0]), (), whole=False)
    assert not store.has(array("i", [0]), ((1, 1.0),), whole=True)
