"""How the figures of a test went over time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from localllm.bench.showing.labels import settings_text, telling_settings
from localllm.bench.showing.stored import Skipped, Stored
from localllm.bench.showing.trends import trend_key
from localllm.library.bench.record import BenchRow, BenchRun


@dataclass(frozen=True)
class RunLine:
    """One run of the list. `rates_ts` are the means of its tests, those that failed left out."""

    id: int | None
    model: str
    started_at: float
    tag: str | None
    host: str | None
    source: str
    complete: bool
    n_rows: int
    n_failed: int
    n_noisy: int
    rates_ts: dict[str, float]


@dataclass(frozen=True)
class Trend:
    """One test under one set of settings on one machine, oldest first.

    `change` is the newest mean over the one before, less 1; None for the first. `within_noise`:
    the 95 % intervals of the two overlap, or one of them is not known.
    """

    model: str
    test: str
    settings: str
    machine: str
    ids: tuple[int | None, ...]
    times: tuple[float, ...]
    rates_ts: tuple[float, ...]
    change: float | None
    within_noise: bool


@dataclass(frozen=True)
class History:
    """Runs newest first, trends by model and test."""

    runs: tuple[RunLine, ...]
    trends: tuple[Trend, ...]
    skipped: tuple[Skipped, ...]


def history(stored: Stored) -> History:
    """Runs and trends of what is stored."""
    runs = tuple(_line(run) for run in stored.runs)
    return History(runs, trends_of(stored.runs), stored.skipped)


def _line(run: BenchRun) -> RunLine:
    good = [row for row in run.rows if row.failure is None]
    return RunLine(
        id=run.id,
        model=run.model,
        started_at=run.started_at,
        tag=run.tag,
        host=run.machine.host if run.machine else None,
        source=run.source,
        complete=run.complete,
        n_rows=len(run.rows),
        n_failed=len(run.rows) - len(good),
        n_noisy=sum(bool(row.evidence and row.evidence.noisy) for row in good),
        rates_ts={row.test: row.avg_ts for row in good},
    )


def trends_of(runs: Sequence[BenchRun]) -> tuple[Trend, ...]:
    """One for each test that has a figure, those measured once too."""
    groups: dict[Hashable, list[tuple[BenchRun, BenchRow]]] = {}
    for run in sorted(runs, key=lambda run: (run.started_at, run.id or 0)):
        for row in run.rows:
            if row.failure is None:
                groups.setdefault(trend_key(run, row), []).append((run, row))
    found = [_trend(group) for group in groups.values()]
    return tuple(sorted(found, key=lambda t: (t.model, t.machine)))


def _trend(group: Sequence[tuple[BenchRun, BenchRow]]) -> Trend:
    run, row = group[-1]
    before = group[-2][1] if len(group) > 1 else None
    return Trend(
        model=run.model,
        test=row.test,
        settings=settings_text(row, telling_settings([row])),
        machine=run.machine.host if run.machine else row.cpu_info,
        ids=tuple(r.id for r, _ in group),
        times=tuple(r.started_at for r, _ in group),
        rates_ts=tuple(r.avg_ts for _, r in group),
        change=None if before is None else row.avg_ts / before.avg_ts - 1,
        within_noise=before is None or _overlap(before, row),
    )


def _overlap(one: BenchRow, other: BenchRow) -> bool:
    low, high = one.ci95_low_ts, one.ci95_high_ts
    other_low, other_high = other.ci95_low_ts, other.ci95_high_ts
    if low is None or high is None or other_low is None or other_high is None:
        return True
    return low <= other_high and other_low <= high
