"""Measuring again, when in doubt: both sides in turn, or the new one in rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from localllm.bench.comparing.judge import LOOKS, Loss, Outcome, judged, paired_loss, rounds_loss
from localllm.bench.comparing.side import Round, Side, case_of
from localllm.library.bench.conditions.evidence import OTHER_CORES
from localllm.library.bench.record import BenchRow
from localllm.registry import Model

Basis = Literal["interleaved", "rounds", "samples"]
Sampler = Callable[[], int]  # nanoseconds of one repetition
InTime = Callable[[], bool]
ROUND_LOOKS = (3, 5, 8, 12)  # undisturbed rounds after which the bounds are looked at
MOST_ROUNDS = 24  # disturbed ones too
# Between rounds, so that they see more of what the machine does; benchmarks/gate_alarms.py plays
# the same: without it, gates on recorded noise cried wolf in 4 of 100 cases, with it in 1.
PAUSE_S = 30.0


@dataclass(frozen=True)
class Settled:
    """What measuring again found."""

    outcome: Outcome
    loss: Loss
    basis: Basis
    remark: str = ""


def interleave(base: Sampler, new: Sampler, limit: float, in_time: InTime) -> Settled:
    """Samples of both sides in turn, A B B A, until it is clear or time is up."""
    old: list[int] = []
    now: list[int] = []
    for look in LOOKS:
        while len(old) < look and in_time():
            if len(old) % 2:
                now.append(new())
                old.append(base())
            else:
                old.append(base())
                now.append(new())
        loss = paired_loss(old, now)
        last = len(old) < look or look == LOOKS[-1]
        if outcome := judged(loss, limit, last=last):
            return Settled(outcome, loss, "interleaved", "time was up" if len(old) < look else "")
    raise AssertionError("the last look always decides")


def by_rounds(
    base: Sequence[float], first: Sequence[float], again: Callable[[], Round],
    n_tokens: int, limit: float, in_time: InTime,
) -> Settled:  # fmt: skip
    """Rounds of the new side against the stored samples of the base, until it is clear.

    Rounds during which other processes computed count for nothing; `first` is the round that
    is measured already (empty if it was disturbed).
    """
    rounds = [first] if first else []
    n_all = 0
    loss = rounds_loss([base], rounds) if rounds else Loss(0.0, float("-inf"), 1.0, 0)
    while n_all < MOST_ROUNDS and len(rounds) < ROUND_LOOKS[-1] and in_time():
        taken = again()
        n_all += 1
        if disturbed(taken.other_cores):
            continue
        rounds.append([n_tokens * 1e9 / ns for ns in taken.samples_ns])
        loss = rounds_loss([base], rounds)
        if len(rounds) in ROUND_LOOKS[:-1] and (found := judged(loss, limit, last=False)):
            return _persistent(Settled(found, loss, "rounds"), base, rounds, limit)
    if len(rounds) < ROUND_LOOKS[0]:
        why = "other processes computed all the time" if n_all else "no time to measure again"
        return Settled("undecided", loss, "rounds", why)
    # What drifts for minutes does not show between rounds: their interval is taken whole.
    outcome = judged(loss, limit, last=False) or ("fine" if loss.share <= limit else "undecided")
    return _persistent(Settled(outcome, loss, "rounds"), base, rounds, limit)


def _persistent(
    settled: Settled, base: Sequence[float], rounds: Sequence[Sequence[float]], limit: float
) -> Settled:
    """A regression by rounds must show in every one of them: slow code is never fast, a machine
    that is slow now and then is."""
    best = max(statistics.median(rates) for rates in rounds)
    if settled.outcome != "regression" or best < statistics.median(base) * (1 - limit):
        return settled
    return replace(settled, outcome="undecided", remark="some rounds were as fast as the baseline")


def disturbed(other_cores: float | None) -> bool:
    """Whether other processes computed beside a measurement."""
    return other_cores is not None and other_cores > OTHER_CORES


class Rerun(Protocol):
    """How rows of one model are measured again."""

    @property
    def base_build(self) -> str | None:
        """Whose code runs the base's side ("another install", "this build"), None where the
        base cannot be run here."""

    def interleaved(
        self, base: BenchRow, new: BenchRow, limit: float, in_time: InTime
    ) -> Settled: ...

    def rounds(self, base: BenchRow, new: BenchRow, limit: float, in_time: InTime) -> Settled: ...


class ChildRerun:
    """Measures in child processes, which keep their models from row to row. Close it.

    `base` None: the baseline's model is not here. `base_python` is the interpreter of the
    install that the base side runs under, None: this one.
    """

    def __init__(
        self, new: Model, base: Model | None, base_build: str | None,
        base_python: Path | None = None, *, pause_s: float = PAUSE_S,
    ) -> None:  # fmt: skip
        self._new_model, self._base_model = new, base
        self._python, self._pause_s = base_python, pause_s
        self.base_build = base_build if base is not None else None
        self._stack = ExitStack()
        self._base: Side | None = None
        self._new: Side | None = None

    def interleaved(
        self, base: BenchRow, new: BenchRow, limit: float, in_time: InTime
    ) -> Settled:  # fmt: skip
        """Both sides resident, one sample each in turn. Raises what loading raises."""
        assert self._base_model is not None, "there is no base to run"
        if self._base is None:
            self._base = self._side(self._base_model, self._python)
        self._base.open(case_of(base))
        side = self._new_side()
        side.open(case_of(new))
        return interleave(self._base.sample, side.sample, limit, in_time)

    def rounds(self, base: BenchRow, new: BenchRow, limit: float, in_time: InTime) -> Settled:
        """The new side in rounds of as many samples as the base's row has."""
        side = self._new_side()
        side.open(case_of(new))
        n = min(max(len(base.samples_ns), 3), 10)
        quiet = new.evidence is None or not disturbed(new.evidence.other_cores)
        first = new.samples_ts if quiet else ()
        rates = base.samples_ts or (base.avg_ts,)
        n_tokens = new.n_prompt + new.n_gen

        def again() -> Round:
            time.sleep(self._pause_s)
            return side.round(n)

        return by_rounds(rates, first, again, n_tokens, limit, in_time)

    def _new_side(self) -> Side:
        if self._new is None:
            self._new = self._side(self._new_model, None)
        return self._new

    def _side(self, model: Model, python: Path | None) -> Side:
        adapters = [path for path, _ in model.attached]
        return self._stack.enter_context(Side(model.path, python, adapters))

    def close(self) -> None:
        self._stack.close()
