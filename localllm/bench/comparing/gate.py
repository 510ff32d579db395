"""Is the new run slower than the baseline, beyond the threshold and beyond the noise?

What is tried, strongest first:

1. The baseline can be run again on this machine: by another install of localllm
   (`--baseline-python`), or, where only the settings or the model differ, by this one. Then both
   sides are measured in turn, and what the machine does meanwhile falls on both.
2. Only the new side can be measured again: rounds, spread over time. Between the day of the
   baseline and today anything may have changed, so only a difference that stands out from what
   varies between rounds is called a regression.
3. Nothing can (`--run`): the samples of both runs as they are.

A machine that has become slower shows in its evidence: clocks, throttling, memory bandwidth, other
processes. That explains a regression in the report. It never takes one back: a figure that
everything slow is divided by would hide the slow-downs that come with a driver, a kernel or a
power setting, and those a benchmark of hardware is there to find.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from localllm.bench.comparing.compare import has_figures
from localllm.bench.comparing.judge import Loss, judged, samples_loss
from localllm.bench.comparing.matching import Pair, matched
from localllm.bench.comparing.rerun import Basis, InTime, Rerun, Settled, disturbed
from localllm.errors import DoesNotFit, EngineError, UsageProblem
from localllm.library.bench.record import BenchRow, BenchRun

RowOutcome = Literal["passed", "regression", "undecided", "failed", "missing", "skipped"]


@dataclass(frozen=True)
class GateRule:
    """`max_regression` 0.05: 5 % slower fails. `max_memory_growth` None: memory is not judged.
    `budget_s` is for measuring again, all rows of a model together. `strict`: what cannot be
    decided fails too."""

    max_regression: float = 0.05
    max_memory_growth: float | None = None
    budget_s: float = 900.0
    strict: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.max_regression < 1:
            raise UsageProblem("--max-regression is above 0 % and below 100 %", "5%")
        if self.max_memory_growth is not None and self.max_memory_growth < 0:
            raise UsageProblem("--max-memory-growth is not below 0 %", "10%")


@dataclass(frozen=True)
class GateRow:
    """One test of the baseline. `loss` is the share of speed lost with its 99 % bounds, by
    `basis`; rates are the runs' means, tokens per second. `problems` says why it fails, empty
    if it does not; `explained` what else changed beside it."""

    test: str
    outcome: RowOutcome
    base: BenchRow | None
    new: BenchRow | None
    changed: tuple[str, ...]
    loss: Loss | None
    basis: Basis | None
    memory_growth: float | None
    problems: tuple[str, ...]
    explained: tuple[str, ...]


@dataclass(frozen=True)
class GateReport:
    """The verdict on one model."""

    model: str
    ok: bool
    rule: GateRule
    base: BenchRun
    new: BenchRun
    base_origin: str
    new_origin: str
    base_build: str | None
    remarks: tuple[str, ...]
    rows: tuple[GateRow, ...]
    took_s: float

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(f"{row.test}: {text}" for row in self.rows for text in row.problems)


def gate(
    base: BenchRun, new: BenchRun, rule: GateRule, rerun: Rerun | None = None, *,
    base_origin: str = "baseline", new_origin: str = "new", remarks: tuple[str, ...] = (),
) -> GateReport:  # fmt: skip
    """Judge every row that `base` has. Raises UsageProblem where none of them has figures."""
    if not any(has_figures(row) for row in base.rows):
        raise UsageProblem(
            f"{base_origin} has no row with figures to gate against",
            f"localllm bench {base.model} --tag baseline",
        )
    begun = time.monotonic()
    gater = _Gate(rule, rerun, lambda: time.monotonic() - begun < rule.budget_s)
    rows = tuple(gater.row(pair) for pair in matched(base.rows, new.rows) if pair.base)
    return GateReport(
        model=new.model,
        ok=not any(row.problems for row in rows),
        rule=rule,
        base=base,
        new=new,
        base_origin=base_origin,
        new_origin=new_origin,
        base_build=rerun.base_build if rerun else None,
        remarks=(*remarks, *_version_changes(base, new)),
        rows=rows,
        took_s=time.monotonic() - begun,
    )


class _Gate:
    def __init__(self, rule: GateRule, rerun: Rerun | None, in_time: InTime) -> None:
        self._rule, self._rerun, self._in_time = rule, rerun, in_time

    def row(self, pair: Pair) -> GateRow:
        base, new = pair.base, pair.new
        assert base is not None
        row = GateRow(base.test, "skipped", base, new, pair.changed, None, None, None, (), ())
        if not has_figures(base):
            return replace(row, explained=("the baseline has no figures for it",))
        if new is None:
            return replace(row, outcome="missing", problems=("it was not measured",))
        if not has_figures(new):
            why = f"{new.failure.kind}: {new.failure.message}" if new.failure else "no figures"
            return replace(row, outcome="failed", problems=(f"it fails now ({why})",))
        try:
            settled = self._settle(pair, base, new)
        except (DoesNotFit, EngineError) as e:  # both models at once may be too much
            settled = _by_samples(base, new, self._rule.max_regression)
            settled = replace(settled, remark=f"could not be measured again: {e.message}")
        return self._finished(row, base, new, settled)

    def _settle(self, pair: Pair, base: BenchRow, new: BenchRow) -> Settled:
        limit = self._rule.max_regression
        rerun = self._rerun
        if rerun is None:
            return _by_samples(base, new, limit)
        differs = bool(pair.changed) or base.sha256 != new.sha256
        if rerun.base_build == "another install" or (rerun.base_build is not None and differs):
            return rerun.interleaved(base, new, limit, self._in_time)
        loss = samples_loss(base.samples_ts, new.samples_ts)
        if loss.high <= limit:
            return Settled("fine", loss, "samples")
        return rerun.rounds(base, new, limit, self._in_time)

    def _finished(self, row: GateRow, base: BenchRow, new: BenchRow, settled: Settled) -> GateRow:
        growth = _growth(base, new)
        outcome: RowOutcome = "passed" if settled.outcome == "fine" else settled.outcome
        explained = [settled.remark] if settled.remark else []
        most = settled.loss.high
        if outcome != "passed":
            explained += explanations(base, new)
        elif most > 2 * self._rule.max_regression and math.isfinite(settled.loss.low):
            explained.append(f"in this noise a loss of up to {most:.1%} would not have been seen")
        return replace(
            row,
            outcome=outcome,
            loss=settled.loss,
            basis=settled.basis,
            memory_growth=growth,
            problems=tuple(self._problems(settled, growth)),
            explained=tuple(explained),
        )

    def _problems(self, settled: Settled, growth: float | None) -> Iterator[str]:
        loss, rule = settled.loss, self._rule
        if settled.outcome == "regression":
            yield (
                f"{loss.share:.1%} slower ({loss.low:.1%} to {loss.high:.1%}), "
                f"{rule.max_regression:.1%} is allowed"
            )
        elif settled.outcome == "undecided" and rule.strict:
            yield f"undecided: {loss.share:.1%} slower, but the noise is as large"
        most = rule.max_memory_growth
        if most is not None and growth is not None and growth > most:
            yield f"takes {growth:.1%} more memory, {most:.1%} is allowed"


def _by_samples(base: BenchRow, new: BenchRow, limit: float) -> Settled:
    """The verdict where nothing can be measured again. A new run that was disturbed proves no
    slow-down, a disturbed baseline proves no speed."""
    loss = samples_loss(base.samples_ts, new.samples_ts)
    outcome = judged(loss, limit, last=True)
    assert outcome is not None
    if outcome == "regression" and new.evidence and disturbed(new.evidence.other_cores):
        remark = f"other processes kept {new.evidence.other_cores:.1f} cores busy"
        return Settled("undecided", loss, "samples", remark)
    return Settled(outcome, loss, "samples")


def explanations(base: BenchRow, new: BenchRow) -> list[str]:
    """What else changed between the rows, as far as their evidence tells."""
    found = []
    old_peak, new_peak = base.peak_bandwidth_bytes_s, new.peak_bandwidth_bytes_s
    if old_peak and new_peak and base.peak_basis == new.peak_basis == "measured":
        found += _moved("measured memory bandwidth", old_peak, new_peak)
    old, now = base.evidence, new.evidence
    if now is None:
        return found
    if old is not None and old.mean_clock_hz and now.mean_clock_hz:
        found += _moved("mean clock", old.mean_clock_hz, now.mean_clock_hz)
    found += [f"new: {reason}" for reason in now.noisy]
    found += [f"base: {reason}" for reason in old.noisy] if old is not None else []
    return found


def _moved(what: str, old: float, now: float) -> list[str]:
    """Changes of 2 % and more."""
    share = now / old - 1
    return [f"{what} {share:+.1%}"] if abs(share) >= 0.02 else []


def _growth(base: BenchRow, new: BenchRow) -> float | None:
    if not base.measured_bytes or not new.measured_bytes:
        return None
    return new.measured_bytes / base.measured_bytes - 1


def _version_changes(base: BenchRun, new: BenchRun) -> tuple[str, ...]:
    """Versions that both runs name and that differ."""
    names = [n for n in base.versions if n in new.versions]
    return tuple(
        f"{name} {base.versions[name]} -> {new.versions[name]}"
        for name in names
        if base.versions[name] != new.versions[name]
    )
