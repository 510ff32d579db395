"""Figures over time."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

from localllm.bench.showing.figures import INTERVAL, RATE, kind_of, setting_values
from localllm.bench.showing.labels import settings_text, telling_settings
from localllm.library.bench.record import BenchRow, BenchRun
from localllm.ui.figure import Axis, LinePlot, Point, Series


def trends(runs: Sequence[BenchRun]) -> tuple[LinePlot, ...]:
    """The rates of each test over time, where it was measured twice or more under the same
    settings on the same machine."""
    kinds: dict[str, dict[Hashable, list[tuple[BenchRun, BenchRow]]]] = {}
    for run in sorted(runs, key=lambda run: run.started_at):
        for row in run.rows:
            if row.failure is None:
                groups = kinds.setdefault(kind_of(row), {})
                groups.setdefault(trend_key(run, row), []).append((run, row))
    plots: list[LinePlot] = []
    when = Axis("measured at", kind="moment")
    rate = dataclasses.replace(RATE, from_zero=False)
    for kind, groups in kinds.items():
        kept = [group for group in groups.values() if len(group) > 1]
        names = _distinct([(group[0][1].model, group[0][1]) for group in kept])
        series = [
            Series(name, [Point(run.started_at, row.avg_ts, row.ci95_low_ts, row.ci95_high_ts)
                          for run, row in group])
            for name, group in zip(names, kept, strict=True)
        ]  # fmt: skip
        if series:
            plots.append(LinePlot(f"{kind} over time", when, rate, series, INTERVAL))
    return tuple(plots)


def trend_key(run: BenchRun, row: BenchRow) -> Hashable:
    """What must be the same for two figures to be one trend."""
    machine = run.machine.fingerprint if run.machine else (row.cpu_info, row.gpu_info)
    return (run.model.casefold(), row.model_size, machine, *setting_values(row, ""))


def _distinct(rows: Sequence[tuple[str, BenchRow]]) -> list[str]:
    """Model and test, with the settings that are needed to tell them apart."""
    names = [f"{model} {row.test}" for model, row in rows]
    telling = telling_settings([row for _, row in rows])
    return [
        f"{name} {settings_text(row, telling)}" if names.count(name) > 1 else name
        for name, (_, row) in zip(names, rows, strict=True)
    ]
