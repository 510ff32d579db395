"""Two runs side by side: ratios with their confidence, memory and energy."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from localllm.bench.comparing.baseline import Found
from localllm.bench.comparing.matching import Pair, check_comparable, matched
from localllm.errors import UsageProblem
from localllm.library.bench.record import BenchRow, BenchRun
from localllm.library.bench.statistics import ratio_ci95

Verdict = Literal[
    "faster", "slower", "no difference seen", "not known", "fails now", "works now",
    "fails in both", "only in base", "only in new",
]  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One test in both runs. `ratio` is new over base of the mean rates, `ratio_low` and
    `ratio_high` bound it (95 %, bootstrap over both runs' samples; None where a run has fewer
    than two). Bytes are of all devices together.

    "faster" and "slower" are said where the interval does not hold 1. It knows what happened
    within the runs; what changed on the machine between them counts as a difference too.
    """

    test: str
    base: BenchRow | None
    new: BenchRow | None
    changed: tuple[str, ...]
    verdict: Verdict
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    memory_bytes: int | None  # new less base
    joules_per_token_ratio: float | None  # new over base
    noisy: tuple[str, ...]  # why a side should not be trusted


@dataclass(frozen=True)
class Compared:
    """Two runs of one model, or of two where that was allowed."""

    base: BenchRun
    new: BenchRun
    base_origin: str
    new_origin: str
    remarks: tuple[str, ...]
    rows: tuple[Difference, ...]


def compare(base: Found, new: Found, across: Collection[str] = ()) -> tuple[Compared, ...]:
    """Compare each model's run in `base` with the same model's in `new`; a single run on each
    side with the other. Models that only one side has are left out, and named in the remarks.

    Raises UsageProblem where machines or models differ and `across` does not name them, or where
    no model is in both.
    """
    pairs, alone = run_pairs(base, new)
    return tuple(
        Compared(
            old, now, base.origin, new.origin,
            (*check_comparable(old, now, across), *alone),
            tuple(difference(pair) for pair in matched(old.rows, now.rows)),
        )
        for old, now in pairs
    )  # fmt: skip


def run_pairs(base: Found, new: Found) -> tuple[list[tuple[BenchRun, BenchRun]], tuple[str, ...]]:
    """Runs that belong together, and in words which have no partner."""
    if len(base.runs) == len(new.runs) == 1:
        return [(base.runs[0], new.runs[0])], ()
    pairs = []
    for old in base.runs:
        same = [now for now in new.runs if now.model == old.model]
        same = same or [  # a model that has got another name
            now for now in new.runs
            if now.sha256 and now.sha256 == old.sha256 and now.model not in base.models
        ]  # fmt: skip
        if same:
            pairs.append((old, same[-1]))
    if not pairs:
        raise UsageProblem(
            f"{base.origin} and {new.origin} have no model in common",
            f"{', '.join(base.models)}; and {', '.join(new.models)}",
        )
    olds, news = [old for old, _ in pairs], [now for _, now in pairs]
    alone = [f"{r.model} is only in {base.origin}" for r in base.runs if r not in olds]
    alone += [f"{r.model} is only in {new.origin}" for r in new.runs if r not in news]
    return pairs, tuple(alone)


def difference(pair: Pair) -> Difference:
    """What changed from the base's row to the new one's."""
    base, new = pair.base, pair.new
    ratio = low = high = None
    if base is not None and new is not None and base.avg_ts > 0 and new.avg_ts > 0:
        ratio = new.avg_ts / base.avg_ts
        bounds = ratio_ci95(base.samples_ts, new.samples_ts)
        low, high = bounds or (None, None)
    return Difference(
        test=pair.row.test,
        base=base,
        new=new,
        changed=pair.changed,
        verdict=_verdict(base, new, low, high),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        memory_bytes=_memory(base, new),
        joules_per_token_ratio=_energy(base, new),
        noisy=(*noise_of("base", base), *noise_of("new", new)),
    )


def has_figures(row: BenchRow | None) -> bool:
    """Whether the row was measured and its rate is a number."""
    return (
        row is not None
        and row.failure is None
        and math.isfinite(row.avg_ts)
        and row.avg_ts > 0
        and all(math.isfinite(s) and s > 0 for s in row.samples_ts)
    )


def noise_of(side: str, row: BenchRow | None) -> tuple[str, ...]:
    """The row's own reasons not to be trusted, saying whose they are."""
    if row is None or row.evidence is None:
        return ()
    return tuple(f"{side}: {reason}" for reason in row.evidence.noisy)


def _verdict(
    base: BenchRow | None, new: BenchRow | None, low: float | None, high: float | None
) -> Verdict:
    if base is None:
        return "only in new"
    if new is None:
        return "only in base"
    if not has_figures(base):
        return "works now" if has_figures(new) else "fails in both"
    if not has_figures(new):
        return "fails now"
    if low is None or high is None:
        return "not known"
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "no difference seen"


def _memory(base: BenchRow | None, new: BenchRow | None) -> int | None:
    if base is None or new is None or not base.measured_bytes or not new.measured_bytes:
        return None
    return new.measured_bytes - base.measured_bytes


def _energy(base: BenchRow | None, new: BenchRow | None) -> float | None:
    """None unless both were metered by the same meter."""
    if base is None or new is None or base.evidence is None or new.evidence is None:
        return None
    old, now = base.evidence, new.evidence
    if not old.joules_per_token or not now.joules_per_token:
        return None
    if old.energy_basis != now.energy_basis:
        return None
    return now.joules_per_token / old.joules_per_token
