"""When drafting pays, and what is looked up in a text."""

from __future__ import annotations

import pytest

from localllm.engine.draft.lookup import LookupDrafter
from localllm.engine.draft.pace import Pace
from localllm.engine.model import Model

ALWAYS = Pace(p_min=0.0)


def measured(plain_s: float, draft_s: float, steps: dict[int, float]) -> Pace:
    """After a plain step and steps of so many tokens that took so long, all right."""
    pace = Pace()
    pace.stepped(plain_s)
    for n, seconds in steps.items():
        pace.verified(n - 1, n - 1, (n - 1) * draft_s, seconds)
    return pace


def first(pace: Pace, *probabilities: float) -> list[bool]:
    """Which of these tokens, each after those that were taken, a new draft takes."""
    pace.drafts()
    return [pace.takes(p) for p in probabilities]


def test_p_min_alone_decides_where_it_is_given() -> None:
    pace = Pace(p_min=0.6)
    assert not pace.drafts()  # a plain step first, to compare with
    pace.stepped(1.0)
    assert pace.drafts()
    assert first(pace, *[0.6] * 30) == [True] * 30
    assert first(pace, 0.59) == [False]
    for _ in range(20):
        pace.verified(4, 0, 100.0, 100.0)  # however bad
    pace.stepped(1.0)
    assert pace.drafts()


def test_a_token_is_drafted_while_it_is_worth_its_time() -> None:
    # A plain step is 10 ms; a token more in a batch 2 ms, and nothing to draft it: worth it from
    # a probability of 0.2 on.
    even = {n: 0.010 + 0.002 * (n - 1) for n in range(2, 32)}
    pace = measured(0.010, 0.0, even)
    assert first(pace, 0.21) == [True]
    assert first(pace, 0.19) == [False]
    # deep in a draft it is the probability of all that counts
    assert first(pace, 0.5, 0.5) == [True, True]
    assert first(pace, 0.5, 0.5, 0.5) == [True, True, False]
    # a draft as slow as the target, or a batch as slow as plain steps, is never worth it
    slow = measured(0.010, 0.010, {n: 0.012 * n for n in range(2, 32)})
    assert first(slow, 0.99) == [False]
    assert first(measured(0.010, 0.0, {n: 0.0101 * n for n in range(2, 32)}), 1.0) == [False]


def test_steps_that_cost_by_leaps_are_looked_beyond() -> None:
    """As measured on a processor: two tokens cost almost two steps, eight only three and a half."""
    pace = measured(0.010, 0.0, {2: 0.019, 4: 0.024, 8: 0.034, 16: 0.060})
    assert pace.step_s(6) == pytest.approx(0.029)
    assert first(pace, 0.8) == [True]  # one alone: 8 ms for 9; seven: 32 ms for 24
    assert first(pace, 0.5) == [False]  # seven: 9.9 ms for 24


def test_sizes_never_tried_are_tried() -> None:
    """One slow short draft must not be the end of all."""
    pace = measured(0.010, 0.0, {2: 0.019})
    assert first(pace, 0.8) == [True]
    assert pace.step_s(9) < 0.025


def test_a_draft_that_is_surer_than_right_is_believed_less() -> None:
    pace = Pace()
    pace.stepped(0.010)
    for _ in range(40):  # always certain, four of five times right
        n = sum(first(pace, *[1.0] * 16))
        pace.verified(n, min(n, 4), 0.0, 0.010 + 0.001 * n)
        pace.stepped(0.010)
    # without that it would take all sixteen; 0.8^n is worth a tenth of a step up to n = 10
    assert 7 <= sum(first(pace, *[1.0] * 16)) <= 11


def test_it_rests_ever_longer_where_it_loses_and_wakes_where_it_gains() -> None:
    pace = Pace()
    pace.stepped(0.010)

    def rounds(n_accepted: int) -> int:
        """Rounds that lose or gain, then the steps until the next draft."""
        for _ in range(4):
            pace.verified(4, n_accepted, 0.004, 0.014)
            pace.stepped(0.010)
        rested = 0
        while not pace.drafts():
            pace.stepped(0.010)
            rested += 1
        return rested

    assert [rounds(0) for _ in range(6)] == [8, 16, 32, 64, 128, 128]
    assert rounds(4) == 0
    assert rounds(0) == 8


def test_the_plain_step_is_measured_again_from_time_to_time() -> None:
    pace = Pace()
    pace.stepped(0.010)
    n = 0
    while pace.drafts():
        pace.verified(7, 7, 0.001, 0.012)
        n += 8
    assert n == 64


def test_what_came_last_time_comes_again(llama: Model) -> None:
    drafter = LookupDrafter(llama.tokenizer)
    text = [10, 11, 12, 13, 14, 15, 16, 10, 11]
    drafter.begin(text[:4])
    assert drafter.propose(text, 3, ALWAYS) == [12, 13, 14]
    assert drafter.propose(text, 99, ALWAYS)[:7] == [12, 13, 14, 15, 16, 10, 11]
    drafter.begin([1, 2, 3])
    assert drafter.propose([1, 2, 3, 10, 11], 3, ALWAYS) == []
    # the latest occurrence counts, and the longest match
    drafter.begin([])
    text = [1, 2, 3, 4, 50, 9, 2, 3, 4, 60, 9, 9, 1, 2, 3, 4]
    assert drafter.propose(text, 1, ALWAYS) == [50]
    assert drafter.propose([*text, 7, 3, 4], 1, ALWAYS) == [7]


def test_a_run_goes_on_with_itself(llama: Model) -> None:
    drafter = LookupDrafter(llama.tokenizer)
    drafter.begin([])
    assert drafter.propose([5, 6, 5, 6], 5, ALWAYS) == [5, 6, 5, 6, 5]


def test_it_learns_how_often_it_is_right_and_never_proposes_an_images_place(llama: Model) -> None:
    drafter = LookupDrafter(llama.tokenizer)
    drafter.begin([1, 2, -77, -78, 3, 1])
    assert drafter.propose([1, 2, -77, -78, 3, 1, 2], 5, ALWAYS) == []
    text = [1, 2, 3, 4, 5, 1, 2]
    drafter.begin(text)
    careful = Pace(p_min=0.3)
    assert drafter.propose(text, 2, careful) == [3, 4]
    for _ in range(30):
        drafter.verified(2, 0)
    assert drafter.propose(text, 2, careful) == []
