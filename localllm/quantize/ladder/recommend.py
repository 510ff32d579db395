"""Which of several measured quantizations to take on this machine, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.engine.quality.interval import Estimate
from localllm.library.choose import ENOUGH_BPW, FEW_BPW
from localllm.quantize.ladder.rungs import Fit
from localllm.quantize.measured.record import Measured
from localllm.ui import Bytes, Percent
from localllm.ui.figure import Front, Point, pareto_front

SMALLEST_AND_BEST = Front("low", "low")


@dataclass(frozen=True)
class Candidate:
    """A rung that was measured."""

    measured: Measured
    fit: Fit


@dataclass(frozen=True)
class Recommendation:
    """`why` is a sentence; `smaller` one about the next smaller rung on the front, where there
    is one. `n_running` of the candidates run here."""

    model: str
    type: str | None
    why: str
    smaller: str | None
    fit: Fit
    n_running: int


def damage(row: Measured) -> Estimate | None:
    """What is compared: divergence from the source, perplexity where that was not measured."""
    return row.mean_kld if row.mean_kld is not None else row.perplexity


def basis(rows: Sequence[Measured]) -> str:
    """`mean_kld`, or `perplexity` where some row has no divergence: the two do not compare."""
    known = [row for row in rows if damage(row) is not None]
    return "mean_kld" if known and all(row.mean_kld for row in known) else "perplexity"


def value_of(row: Measured, by: str) -> float | None:
    """The value of `basis`."""
    estimate: Estimate | None = getattr(row, by)
    return None if estimate is None else estimate.value


def front(rows: Sequence[Measured], by: str) -> frozenset[str]:
    """Names of the models that no other one beats: none is smaller and at least as good."""
    points = []
    for row in rows:
        value = value_of(row, by)
        if value is not None:
            points.append(Point(row.size_bytes, value, label=row.model))
    return frozenset(point.label for point in pareto_front(points, SMALLEST_AND_BEST))


def recommend(found: Sequence[Candidate], by: str, room: str) -> Recommendation | None:
    """The least damage among those that run best here; None where none runs.

    As `pull` chooses a variant: all on the GPU before partly, partly before hardly, under 3 bits
    a weight only where nothing else runs, and 16 bits, which gain nothing over 8, last of all.
    Among those that are alike in this the damage measured decides, and of equals the smaller.
    """
    running = [c for c in found if c.fit.runs and value_of(c.measured, by) is not None]
    if not running:
        return None
    best = min(running, key=lambda c: order(c, by))
    pool = [c for c in running if _rank(c) == _rank(best)]
    return Recommendation(
        best.measured.model,
        best.measured.type,
        _why(best, pool, by, room),
        _smaller(best, running, by),
        best.fit,
        len(running),
    )


def order(candidate: Candidate, by: str) -> tuple[int, float, int]:
    """Sorts candidates that run, the one to take first."""
    value = value_of(candidate.measured, by)
    assert value is not None, candidate.measured.model
    return _rank(candidate), value, candidate.measured.size_bytes


def _rank(candidate: Candidate) -> int:
    places = {"all": 0, "partial": 1, "cpu": 1}
    bits = candidate.measured.bits_per_weight or 0.0
    if bits > ENOUGH_BPW:
        return 5
    if candidate.fit.verdict not in places:
        return 4  # mostly on the CPU of a machine with a GPU too small for it
    return places[candidate.fit.verdict] + (2 if bits < FEW_BPW else 0)


_WHERE = {"all": "all on the GPU", "partial": "mostly on the GPU", "cpu": "in memory"}


def _why(best: Candidate, pool: Sequence[Candidate], by: str, room: str) -> str:
    where = _WHERE.get(best.fit.verdict, "mostly on the CPU")
    value = value_of(best.measured, by)
    what = f"KLD {value:.3g}" if by == "mean_kld" else f"perplexity {value:.4g}"
    among = f" of the {len(pool)} that run {where}" if len(pool) > 1 else f"; it runs {where}"
    return (
        f"the least damage ({what}){among} at a context of {best.fit.n_ctx}: it needs "
        f"{Bytes(best.fit.need_bytes)} of {room}"
    )


def _smaller(best: Candidate, running: Sequence[Candidate], by: str) -> str | None:
    """What the next smaller rung on the front would save and cost."""
    names = front([c.measured for c in running], by)
    below = [
        c.measured
        for c in running
        if c.measured.model in names and c.measured.size_bytes < best.measured.size_bytes
    ]
    if not below:
        return None
    row = max(below, key=lambda row: row.size_bytes)
    less = Percent(1 - row.size_bytes / best.measured.size_bytes)
    value = value_of(row, by)
    what = f"a KLD of {value:.3g}" if by == "mean_kld" else f"a perplexity of {value:.4g}"
    return f"{row.type or row.model} is {less} smaller{_faster(row, best.measured)}, and has {what}"


def _faster(row: Measured, best: Measured) -> str:
    """How much faster it generates, where the measurements can tell."""
    one, other = row.tg, best.tg
    if one is None or other is None or one.low_tps is None or other.high_tps is None:
        return ""
    if one.low_tps <= other.high_tps:
        return ""
    return f", generates {one.mean_tps / other.mean_tps:.2g} times as fast"
