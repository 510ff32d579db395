"""How a training went, whether it tuned or began from nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localllm.finetune.training.records import Trained


@dataclass(frozen=True)
class Course:
    """Losses are in nats, by torch; `peak_bytes` of the memory of what computed: resident, or the
    GPU's."""

    steps: int
    planned_steps: int
    stopped: str
    kept_step: int
    loss_first: float | None
    loss_last: float | None
    held_out_before: float | None
    held_out_after: float | None
    tokens: int
    seconds: float
    tokens_per_s: float
    peak_bytes: int


def course_of(trained: Trained) -> Course:
    """The figures of a run that came to its end."""
    steps = trained.history.steps
    return Course(
        steps=trained.steps,
        planned_steps=trained.planned_steps,
        stopped=trained.stopped,
        kept_step=trained.kept_step,
        loss_first=steps[0].loss if steps else None,
        loss_last=steps[-1].loss if steps else None,
        held_out_before=trained.loss_before,
        held_out_after=trained.loss_after,
        tokens=trained.tokens,
        seconds=trained.seconds,
        tokens_per_s=trained.tokens_per_s,
        peak_bytes=trained.peak_bytes,
    )
