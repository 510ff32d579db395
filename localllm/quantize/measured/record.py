"""What is known of one model: size, quality and speed, as rows of a table and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from localllm.engine.quality.interval import Estimate
from localllm.library import header_of
from localllm.library.bench.record import BenchRow, BenchRun
from localllm.library.quality.record import Quality
from localllm.registry import Model

Role = Literal["source", "made", "sibling"]
N_PROMPT, N_GEN = 512, 128  # llama-bench's tests, so that rows can stand beside others


@dataclass(frozen=True)
class Speed:
    """Tokens a second of one test by llama-bench's method: the mean of `n` repetitions with its
    95 % interval. `noisy` says, in words, why not to trust it."""

    test: str
    mean_tps: float
    low_tps: float | None
    high_tps: float | None
    n: int
    noisy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What is known of one model.

    Divergence (nats a token), perplexity and the share of equal top tokens are against the
    source; None where they were not measured, and `failures` says why where that was tried.
    `quality_id` and `bench_id` number the registry's measurements. `elsewhere` lists, in words,
    which figures were taken under other conditions than the rest of the table.
    """

    model: str
    role: Role
    type: str | None
    size_bytes: int
    bits_per_weight: float | None
    perplexity: Estimate | None = None
    mean_kld: Estimate | None = None
    same_top: Estimate | None = None
    chunk_kld: tuple[float, ...] = ()
    pp: Speed | None = None
    tg: Speed | None = None
    quality_id: int | None = None
    bench_id: int | None = None
    quality_reused: bool = False
    speed_reused: bool = False
    elsewhere: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


def has_figures(row: Measured) -> bool:
    """Whether anything of it could be measured."""
    return any(figure is not None for figure in (row.perplexity, row.pp, row.tg))


def row_of(model: Model, role: Role, type_: str | None) -> Measured:
    """What a header tells, before anything is measured. Raises DamagedFile, FileGone."""
    size = sum(file.size_bytes for file in model.weights)
    return Measured(model.name, role, type_, size, header_of(model).bits_per_weight)


def with_quality(found: Measured, row: Quality) -> Measured:
    """`found` with the figures of `row`."""
    against = row.figures.divergence
    return replace(
        found,
        perplexity=row.figures.perplexity,
        mean_kld=None if against is None else against.mean_kld,
        same_top=None if against is None else against.same_top,
        chunk_kld=row.figures.chunk_kld,
        quality_id=row.measurement,
        quality_reused=row.reused,
    )


def with_speed(found: Measured, run: BenchRun, reused: bool) -> Measured:
    """`found` with the speeds of `run`."""
    rows = {row.test: row for row in run.rows if row.failure is None}
    return replace(
        found,
        pp=_speed_of(rows.get(f"pp{N_PROMPT}")),
        tg=_speed_of(rows.get(f"tg{N_GEN}")),
        bench_id=run.id,
        speed_reused=reused,
    )


def _speed_of(row: BenchRow | None) -> Speed | None:
    if row is None:
        return None
    noisy = row.evidence.noisy if row.evidence else ()
    return Speed(
        row.test, row.avg_ts, row.ci95_low_ts, row.ci95_high_ts, len(row.samples_ns), noisy
    )
