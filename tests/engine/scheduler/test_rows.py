"""How many sequences a step takes: as the machine's own times say, and nobody left behind."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.scheduler.loop import StepLoop
from localllm.engine.scheduler.request import Event, Request
from localllm.engine.scheduler.rows import RowTimes
from localllm.engine.scheduler.share import Turns
from localllm.engine.scheduler.slot import Job, Slot
from localllm.generation import Sampling
from tests.engine.conftest import MakeContext
from tests.engine.scheduler.conftest import assert_greedy, words


def tiles_of_four(n: int) -> float:
    """Milliseconds as measured of Gemma 3 270M Q4_K_M, roughly: what is left over of a tile takes
    longer than a whole one."""
    return 40 + 6.5 * (n - n % 4) + (33 + 4 * (n % 4) if n % 4 else 0)


def even(n: int) -> float:
    return 40 + 6.0 * n


def tiles_of_sixteen(n: int) -> float:
    return 40 + 90.0 * -(-n // 16)


def learned(cost: Any, sizes: range) -> RowTimes:
    rows = RowTimes()
    for n in sizes:
        for _ in range(40):
            taken = rows.best(n)
            rows.took(taken, cost(taken))
    return rows


def usual(rows: RowTimes, n: int) -> int:
    """What it takes of `n`, but for when it looks again."""
    taken = [rows.best(n) for _ in range(16)]
    return max(set(taken), key=taken.count)


@pytest.mark.parametrize(
    ("cost", "ready", "taken"),
    [
        (tiles_of_four, 3, 3),  # less than a tile is all there is
        (tiles_of_four, 4, 4),
        (tiles_of_four, 5, 4),
        (tiles_of_four, 13, 12),
        (tiles_of_four, 16, 16),
        (tiles_of_four, 18, 16),
        (even, 5, 5),
        (even, 17, 17),  # weights that are streamed: a pass for all is best
        (tiles_of_sixteen, 13, 13),
        (tiles_of_sixteen, 17, 16),
        (tiles_of_sixteen, 31, 31),
    ],
)
def test_as_many_as_make_the_most_tokens_a_second(cost: Any, ready: int, taken: int) -> None:
    rows = learned(cost, range(1, 33))
    assert usual(rows, ready) == taken
    sizes = {ready, ready - ready % 4, ready - ready % 16} - {0}
    assert taken / cost(taken) >= max(n / cost(n) for n in sizes) / 1.04


def test_one_disturbed_step_changes_nothing_and_another_machine_everything() -> None:
    rows = learned(tiles_of_four, range(1, 9))
    for n in (4, 5):
        rows.took(n, 10 * tiles_of_four(n))
    assert usual(rows, 5) == 4
    for _ in range(400):  # others took half the processor: times are even now
        taken = rows.best(5)
        rows.took(taken, 1000 + taken)
    assert usual(rows, 5) == 5


def test_outputs_fill_a_tile_where_that_is_faster() -> None:
    rows = RowTimes()
    assert rows.padded(15, 16) == 15  # nothing is known
    for n in range(1, 17):
        for _ in range(3):
            rows.took(n, tiles_of_four(n))
    assert rows.padded(15, 16) == 16
    assert rows.padded(15, 15) == 15  # there is no room for more
    assert rows.padded(9, 16) == 12
    assert rows.padded(2, 16) == 4 if tiles_of_four(4) < tiles_of_four(2) else 2
    assert rows.padded(12, 16) == 12


def slots(n: int) -> list[Slot]:
    made = []
    for i in range(n):
        slot = Slot(Job(Request([1, 2]), print), [], array("i", [1, 2]), (), ())
        slot.fed, slot.sequence, slot.order = 1, i, i
        made.append(slot)
    return made


@pytest.mark.parametrize("n", [5, 6, 7, 13, 15])
def test_who_was_left_out_is_first_in_the_next_step(n: int) -> None:
    turns = Turns(512, 63, learned(tiles_of_four, range(1, 17)))
    ready = slots(n)
    had = dict.fromkeys(range(n), 0)
    missed = dict.fromkeys(range(n), 0)
    n_taken = 0
    for _ in range(60):
        parts = turns.parts(ready)
        taken = {part.slot.order for part in parts}
        n_taken += len(taken)
        for i in range(n):
            had[i] += i in taken
            missed[i] = 0 if i in taken else missed[i] + 1
            assert missed[i] <= 1
    assert n_taken < 60 * n
    assert max(had.values()) - min(had.values()) <= 1


def test_prompts_and_many_next_tokens_take_steps_in_turn() -> None:
    """Where attention is tiled and there are cells enough for that to matter."""

    def kinds(turns: Turns, n_cells: int, n_prompt: int) -> list[tuple[int, int]]:
        """(next tokens, tokens of prompts) of six steps."""
        ready = slots(8)
        for slot in ready:
            slot.tokens, slot.fed = array("i", [1] * (n_cells + 1)), n_cells
        (prompt,) = slots(1)
        prompt.tokens, prompt.fed, prompt.sequence = array("i", [1] * n_prompt), 0, 8
        found = []
        for _ in range(6):
            parts = turns.parts([*ready, prompt])
            of_prompt = sum(part.n for part in parts if part.slot is prompt)
            found.append((len(parts) - (of_prompt > 0), of_prompt))
            if prompt.remaining > 1:
                prompt.fed += of_prompt
        return found

    apart = [(0, 100), (8, 0), (0, 100), (8, 0), (0, 100), (8, 0)]
    assert kinds(Turns(100, 63, tiled=True), 200, 500) == apart
    together = [(8, 92)] * 5 + [(8, 40)]
    assert kinds(Turns(100, 63), 200, 500) == together
    assert kinds(Turns(100, 63, tiled=True), 20, 500) == together  # few cells
    # a short prompt makes no tile; once it is in, it has its next tokens like everyone
    assert kinds(Turns(100, 63, tiled=True), 200, 41)[0] == (8, 41)


def test_more_outputs_than_wanted_change_nothing(
    llama: Model, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts fill up the last tile of what is sampled, within the context's room for outputs."""
    asked: list[int] = []
    original = Context.decode

    def decode(self: Context, batch: Any) -> None:
        asked.append(sum(batch.logits[i] for i in range(batch.n_tokens)))
        original(self, batch)

    rows = RowTimes()
    for n, seconds in ((5, 2.0), (6, 2.0), (8, 1.0)):
        for _ in range(3):
            rows.took(n, seconds)
    monkeypatch.setattr(rows, "took", lambda *_: None)
    monkeypatch.setattr(rows, "best", lambda n: n)
    monkeypatch.setattr(Context, "decode", decode)
    loop = StepLoop(
        make_context(llama, n_ctx=1024, n_seq_max=8, n_outputs_max=8, kv_unified=True), rows=rows
    )
    told: dict[int, list[int]] = {}

    def join(i: int) -> None:
        def tell(event: Event) -> None:
            if event.token is not None:
                told.setdefault(i, []).append(event.token)

        prompt = Request(words(20, i), Sampling(temperature=0.0, max_tokens=6))
        job = Job(prompt, tell)
        loop.admit(job, loop.samples(job))

    for i in range(4):
        join(i)
    loop.step()
    assert asked == [4]  # of which nothing is known
    join(4)
    loop.step()
    assert asked == [4, 8]
    while loop.busy:
        loop.step()
    loop.close()
    assert max(asked[2:]) == 5  # nobody's prompt: there is nothing to fill up with
    for i, tokens in told.items():
        assert_greedy(llama, words(20, i), tokens)


def test_more_outputs_are_asked_of_who_has_none() -> None:
    with TokenBatch(8) as batch:
        batch.extend(array("i", [5, 6, 7]), 0, 0, output=True)
        batch.add(8, 0, 1, output=True)
        assert batch.n_outputs == 2
        batch.ask_more(1)
        assert batch.n_outputs == 3
        batch.ask_more(9)  # no more than there are
        assert batch.n_outputs == 4
        assert [batch.native.logits[i] for i in range(5)] == [1, 1, 1, 1, 0]
