"""Two settings against each other, in turn, until one is known to be faster or time is up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

# Does the work once; the seconds of each of its parts, or None where it does not run.
Trial = Callable[[], tuple[float, ...] | None]
Outcome = Literal["faster", "slower", "alike", "failed"]

MIN_ROUNDS, MAX_ROUNDS = 3, 9
WORTH_IT = 1.01  # a gain below one percent is not worth a setting of its own
HOPELESS = 0.9  # two rounds in a row below this end it

# Two-sided points of Student's t for n - 1 degrees of freedom, n = 2 ... 9: 95 % for what is
# reported, 99 % for what is decided, since a duel may be decided after each of seven rounds.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)
_T99 = (63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355)


@dataclass(frozen=True)
class Duel:
    """`speedup` is the incumbent's time over the challenger's (geometric mean of the rounds):
    over 1 the challenger is faster. `low` and `high` bound it (95 %, Student's t on the
    logarithms of the rounds' ratios; a round is a pair, so slow drift cancels out), the outcome
    stands at 99 %. `parts` is the speed-up of each part of the work.
    """

    outcome: Outcome
    speedup: float
    low: float
    high: float
    rounds: int
    parts: tuple[float, ...] = ()
    settled: bool = False  # known not to gain what would be worth it


@dataclass(frozen=True)
class _Round:
    incumbent: tuple[float, ...]
    challenger: tuple[float, ...]

    @property
    def log(self) -> float:
        return math.log(sum(self.incumbent) / sum(self.challenger))


def duel(incumbent: Trial, challenger: Trial, in_time: Callable[[], bool] = lambda: True) -> Duel:
    """Run both in turn (A B, B A, A B ...) for 3 to 9 rounds; stops as soon as it is decided.

    `in_time` is asked before each round; when it says no, what is known by then decides.
    """
    rounds: list[_Round] = []
    while len(rounds) < MAX_ROUNDS and in_time():
        done = _round(incumbent, challenger, flipped=len(rounds) % 2 == 1)
        if done is None:
            return Duel("failed", 0.0, 0.0, 0.0, len(rounds))
        rounds.append(done)
        found = judge([r.log for r in rounds])
        if len(rounds) >= MIN_ROUNDS and (found.outcome != "alike" or found.settled):
            break
        if len(rounds) >= 2 and max(r.log for r in rounds) < math.log(HOPELESS):
            found = replace(found, outcome="slower")
            break
    else:
        found = judge([r.log for r in rounds])
    return replace(found, parts=_parts(rounds))


def judge(logs: Sequence[float]) -> Duel:
    """What the logarithms of these rounds' speed-ups say."""
    if not logs:
        return Duel("alike", 1.0, 0.0, math.inf, 0)
    mean = statistics.fmean(logs)
    if len(logs) == 1:
        return Duel("alike", math.exp(mean), 0.0, math.inf, 1)
    deviation = statistics.stdev(logs) / math.sqrt(len(logs))
    sure, half = _T99[len(logs) - 2] * deviation, _T95[len(logs) - 2] * deviation
    outcome: Outcome = "alike"
    if mean - sure > 0 and math.exp(mean) >= WORTH_IT:
        outcome = "faster"
    elif mean + sure < 0:
        outcome = "slower"
    return Duel(
        outcome, math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs),
        settled=math.exp(mean + sure) < WORTH_IT,
    )  # fmt: skip


def _round(incumbent: Trial, challenger: Trial, *, flipped: bool) -> _Round | None:
    first, second = (challenger, incumbent) if flipped else (incumbent, challenger)
    a = first()
    b = second() if a is not None else None
    if a is None or b is None:
        return None
    return _Round(b, a) if flipped else _Round(a, b)


def _parts(rounds: Sequence[_Round]) -> tuple[float, ...]:
    if not rounds:
        return ()
    return tuple(
        math.exp(statistics.fmean(math.log(r.incumbent[i] / r.challenger[i]) for r in rounds))
        for i in range(len(rounds[0].incumbent))
    )
