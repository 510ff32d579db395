"""A ladder: one model quantized to several types, each measured, compared and one recommended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from localllm.errors import LocalLLMError, UsageProblem
from localllm.library.quality.record import Conditions
from localllm.quantize.ladder.recommend import (
    Candidate,
    Recommendation,
    basis,
    front,
    recommend,
)
from localllm.quantize.ladder.rungs import Fit, LeftOut, PlannedRung
from localllm.quantize.measured.record import Measured
from localllm.ui import Bytes

Keep = Literal["all", "best", "none"]
State = Literal["planned", "made", "reused", "removed", "failed"]


@dataclass(frozen=True)
class LadderOptions:
    """`keep` says which of the models made now stay on disk: all, the recommended one, or none.
    `n_ctx` is the context that the recommendation is for (None: the default)."""

    keep: Keep = "all"
    n_ctx: int | None = None

    def __post_init__(self) -> None:
        if self.keep not in ("all", "best", "none"):
            raise UsageProblem(f"--keep {self.keep!r} is none of all, best, none")


@dataclass(frozen=True)
class Rung:
    """One type. `file_bytes` is exact; None where it could not be planned.

    `state`: planned (a dry run), made now, reused from before, removed after measuring
    (`--keep`), or failed, and `failure` says why; what failed of the measuring alone stands in
    `measured.failures`. `fallbacks` are tensors whose shape the type does not allow.
    """

    type: str
    model: str | None
    state: State
    file_bytes: int | None
    bits_per_weight: float | None
    fallbacks: int
    fit: Fit | None
    measured: Measured | None = None
    on_front: bool = False
    failure: str | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Ladder:
    """All rungs in the order given, and what they are compared by (`basis`).

    `recommended` is None in a dry run, and where nothing that was measured fits this machine,
    which `nothing_fits` then says. `needed_bytes` is what is still to be written, `free_bytes`
    what the disk has. `complete` is false while rungs are missing: it was interrupted.
    """

    source: Measured
    rungs: tuple[Rung, ...]
    left_out: tuple[LeftOut, ...]
    siblings: tuple[Measured, ...]
    conditions: Conditions | None
    basis: str
    recommended: Recommendation | None
    nothing_fits: str | None
    imatrix: str | None
    n_ctx: int | None
    room: str
    needed_bytes: int
    free_bytes: int
    complete: bool

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The rows of all rungs that have one."""
        return tuple(rung.measured for rung in self.rungs if rung.measured is not None)


def planned_rung(one: PlannedRung) -> Rung:
    """A rung before it is made."""
    plan = one.plan
    if plan is None:
        return failed_rung(one, one.problem)
    return Rung(
        one.type, plan.name, "planned", plan.file_bytes, plan.bits_per_weight,
        len(plan.fallbacks), one.fit,
    )  # fmt: skip


def failed_rung(one: PlannedRung, error: LocalLLMError | None) -> Rung:
    """A rung that could not be planned or made."""
    plan = one.plan
    return Rung(
        one.type,
        None,
        "failed",
        plan.file_bytes if plan else None,
        plan.bits_per_weight if plan else None,
        len(plan.fallbacks) if plan else 0,
        one.fit,
        failure=error.message if error else None,
    )


def candidates(rungs: tuple[Rung, ...]) -> list[Candidate]:
    """Rungs that may be recommended: measured, and placed."""
    return [
        Candidate(rung.measured, rung.fit)
        for rung in rungs
        if rung.measured is not None and rung.fit is not None and rung.measured.perplexity
    ]


@dataclass(frozen=True)
class Judged:
    """Rungs with their front marked, what they are compared by, the recommendation, and where
    this machine can run none of them that sentence."""

    rungs: tuple[Rung, ...]
    basis: str
    recommended: Recommendation | None
    nothing_fits: str | None


def judged(rungs: tuple[Rung, ...], room: str) -> Judged:
    """Compare what was measured."""
    rows = [rung.measured for rung in rungs if rung.measured is not None]
    by = basis(rows)
    best = front(rows, by)
    marked = tuple(
        replace(rung, on_front=rung.measured is not None and rung.measured.model in best)
        for rung in rungs
    )
    chosen = recommend(candidates(marked), by, room)
    return Judged(marked, by, chosen, nothing_fits(marked, room))


def nothing_fits(rungs: tuple[Rung, ...], room: str) -> str | None:
    """A sentence where this machine can run none of the rungs, else None."""
    placed = [(rung.fit, rung.type) for rung in rungs if rung.fit is not None]
    if not placed or any(fit.runs for fit, _ in placed):
        return None
    fit, name = min(placed, key=lambda pair: pair[0].need_bytes)
    return (
        f"nothing fits: {name}, the smallest, needs {Bytes(fit.need_bytes)} at a context of "
        f"{fit.n_ctx}, more than {room}"
    )
