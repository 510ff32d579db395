"""The fastest way to run a model here: one setting after another, each against the best so far.

Every challenger runs in turn with the incumbent (`duel`), so drift and noise of the machine
fall on both; the winner is confirmed against the defaults once more at the end, since the
best of many measurements flatters itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from localllm.bench.tuning.duel import Duel, Outcome, duel
from localllm.bench.tuning.space import Axis, Part, Tuning
from localllm.library.bench.case import BenchTest, Setup

# Seconds that one run of the test takes under the setup; None where it fails.
Timer = Callable[[Setup, BenchTest], float | None]

CONFIRMING = 0.15  # of the budget is kept for the last duel
N_PROMPT, N_GEN = 2048, 32  # at most: a batch larger than the prompt would not show
_SMALLEST_PROMPT, _SMALLEST_GEN = 64, 4
_TRIALS = 150  # runs of both tests that a budget should have room for


@dataclass(frozen=True)
class Tried:
    """One value against the best until then. Speed-ups as in `Duel`; `pp` and `tg` those of
    each part of the work, None where the setting does not concern it."""

    value: str
    outcome: Outcome
    speedup: float
    low: float
    high: float
    rounds: int
    pp: float | None
    tg: float | None


@dataclass(frozen=True)
class Choice:
    """One setting: what it was, what was tried, what was kept. `left_out` names the values that
    the budget had no room for, or no room for a prompt long enough to show them."""

    name: str
    before: str
    kept: str
    tried: tuple[Tried, ...]
    left_out: tuple[str, ...]
    took_s: float


@dataclass(frozen=True)
class Search:
    """The whole search. `pp` and `tg` are the winner against the defaults, measured anew with
    tests of `n_prompt` and `n_gen` tokens."""

    default: Tuning
    winner: Tuning
    choices: tuple[Choice, ...]
    pp: Duel
    tg: Duel
    n_prompt: int
    n_gen: int
    budget_s: float
    took_s: float

    @property
    def better(self) -> bool:
        """Whether the winner is worth keeping: faster in one part, slower in none."""
        outcomes = {self.pp.outcome, self.tg.outcome}
        return (
            self.winner != self.default
            and "faster" in outcomes
            and outcomes.isdisjoint({"slower", "failed"})
        )


def search(
    timer: Timer,
    default: Tuning,
    axes: Sequence[Axis],
    *,
    budget_s: float,
    advance: Callable[[str], None] = lambda said: None,
    now: Callable[[], float] = time.monotonic,
) -> Search | None:
    """Try `axes` in order within `budget_s`; None where not even the defaults run.

    The budget is kept to within one run of the tests. `advance` hears what is tried next.
    """
    clock = _Clock(budget_s, now)
    tests = _sized(timer, default, clock)
    if tests is None:
        return None
    searcher = _Searcher(timer, tests, clock, advance)
    best = default
    choices: list[Choice] = []
    for axis in axes:
        best, choice = searcher.choose(axis, best)
        choices.append(choice)
    if best == default:
        pp = tg = Duel("alike", 1.0, 1.0, 1.0, 0, (1.0,))
    else:
        advance("the winner against the defaults")
        pp = searcher.against(default, best, ("pp",), 1.0 - CONFIRMING / 2)
        tg = searcher.against(default, best, ("tg",), 1.0)
    return Search(
        default, best, tuple(choices), pp, tg, tests["pp"].n_prompt, tests["tg"].n_gen,
        budget_s, clock.spent_s,
    )  # fmt: skip


@dataclass
class _Clock:
    budget_s: float
    now: Callable[[], float]

    def __post_init__(self) -> None:
        self._begun = self.now()

    @property
    def spent_s(self) -> float:
        return self.now() - self._begun

    def within(self, share: float) -> Callable[[], bool]:
        """Whether less than `share` of the budget is spent, asked later."""
        return lambda: self.spent_s < self.budget_s * share


@dataclass
class _Searcher:
    timer: Timer
    tests: dict[Part, BenchTest]
    clock: _Clock
    advance: Callable[[str], None]

    def choose(self, axis: Axis, best: Tuning) -> tuple[Tuning, Choice]:
        """The best value on one axis, the others staying as they are."""
        begun, before = self.clock.spent_s, axis.read(best)
        tried: dict[object, Tried] = {}
        left_out: list[object] = []
        in_time = self.clock.within(1.0 - CONFIRMING)
        longest = self.tests["pp"].n_prompt
        for value in _candidates(axis, before, tried):
            too_long = axis.within_prompt and _least(value, axis.read(best)) >= longest
            if too_long or not in_time():
                left_out.append(value)
                continue
            self.advance(f"{axis.name} {value}")
            challenger = axis.with_value(best, value)
            found = self.against(best, challenger, axis.parts, 1.0 - CONFIRMING)
            tried[value] = _tried(value, found, axis.parts)
            if found.outcome == "faster":
                best = challenger
        choice = Choice(
            name=axis.name,
            before=str(before),
            kept=str(axis.read(best)),
            tried=tuple(tried.values()),
            left_out=tuple(str(v) for v in left_out),
            took_s=self.clock.spent_s - begun,
        )
        return best, choice

    def against(
        self, incumbent: Tuning, challenger: Tuning, parts: Sequence[Part], share: float
    ) -> Duel:
        """Both in turn until it is decided or `share` of the budget is spent."""

        def once(tuning: Tuning) -> tuple[float, ...] | None:
            times = [self.timer(tuning.of(part), self.tests[part]) for part in parts]
            return None if None in times else tuple(t for t in times if t is not None)

        return duel(lambda: once(incumbent), lambda: once(challenger), self.clock.within(share))


def _candidates(axis: Axis, start: object, tried: dict[object, Tried]) -> Iterator[object]:
    """The values to try. On an ordered axis, outwards from `start`: down while nothing gets
    slower, and up likewise, so that a plateau is crossed but a slope is not followed."""
    if not axis.ordered or start not in axis.values:
        yield from (v for v in axis.values if v != start)
        return
    at = axis.values.index(start)
    above, below = axis.values[at + 1 :], axis.values[:at][::-1]
    yield from _way(above, tried)
    if not any(v in tried and tried[v].outcome == "faster" for v in above):
        yield from _way(below, tried)


def _least(*values: object) -> int:
    return min(v for v in values if isinstance(v, int))


def _way(values: Sequence[object], tried: dict[object, Tried]) -> Iterator[object]:
    for value in values:
        yield value
        if value in tried and tried[value].outcome in ("slower", "failed"):
            return


def _tried(value: object, found: Duel, parts: Sequence[Part]) -> Tried:
    each = dict(zip(parts, found.parts, strict=False))
    return Tried(
        str(value), found.outcome, found.speedup, found.low, found.high, found.rounds,
        each.get("pp"), each.get("tg"),
    )  # fmt: skip


def _sized(timer: Timer, default: Tuning, clock: _Clock) -> dict[Part, BenchTest] | None:
    """Tests as long as the budget has room for about 150 of each; None if they do not run.

    Starts with the smallest, so that a slow machine does not spend its budget on one run.
    """
    tests: dict[Part, BenchTest] = {}
    parts: tuple[tuple[Part, int, int], ...] = (
        ("pp", _SMALLEST_PROMPT, N_PROMPT), ("tg", _SMALLEST_GEN, N_GEN)
    )  # fmt: skip
    for part, smallest, wanted in parts:
        took = timer(default.of(part), _test(part, smallest))
        if took is None:
            return None
        room = clock.budget_s / _TRIALS / 2 / (took / smallest)
        size = max(n for n in (smallest << k for k in range(6)) if n == smallest or n <= room)
        tests[part] = _test(part, min(size, wanted))
    return tests


def _test(part: Part, n_tokens: int) -> BenchTest:
    return BenchTest(n_tokens, 0) if part == "pp" else BenchTest(0, n_tokens)
