"""What a run says of itself while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class StepRecord:
    """One step. `loss` is in nats a predicted token (per pair for preferences), `tokens` are all
    that were computed and `targets` those that counted; `seconds` is the step's own time.
    `memory_bytes` are the CPU's (resident) or the computing GPU's, at their highest."""

    step: int  # finished so far, from 1
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    targets: int
    seconds: float
    memory_bytes: int
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalRecord:
    """The held-out examples after `step` steps (0: before the first). `is_best` by loss."""

    step: int
    loss: float
    is_best: bool
    seconds: float
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """All records of a run, in order."""

    steps: tuple[StepRecord, ...] = ()
    evals: tuple[EvalRecord, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "steps": [asdict(one) for one in self.steps],
            "evals": [asdict(one) for one in self.evals],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> History:
        return cls(
            tuple(StepRecord(**one) for one in value["steps"]),
            tuple(EvalRecord(**one) for one in value["evals"]),
        )


class Watcher(Protocol):
    """Who is told. Called on the thread that trains; what it raises ends the run."""

    def begin(self, n_steps: int, done: int) -> None:
        """Before the first step; `done` were done by a run before this one."""

    def step(self, record: StepRecord) -> None: ...

    def evaluated(self, record: EvalRecord) -> None: ...

    def sample(self, step: int) -> None:
        """It is time for samples, where they are wanted."""

    def saved(self, step: int) -> None:
        """A checkpoint is complete on the disk."""


class Unwatched:
    """Nobody is told."""

    def begin(self, n_steps: int, done: int) -> None: ...

    def step(self, record: StepRecord) -> None: ...

    def evaluated(self, record: EvalRecord) -> None: ...

    def sample(self, step: int) -> None: ...

    def saved(self, step: int) -> None: ...


Stopped = Literal["done", "early"]


@dataclass(frozen=True)
class Trained:
    """How a run ended. The model holds the weights of `kept_step`."""

    steps: int
    planned_steps: int
    stopped: Stopped
    kept_step: int
    history: History
    tokens: int
    targets: int
    seconds: float  # in steps, those of earlier runs included
    peak_bytes: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def loss_before(self) -> float | None:
        """On the held-out examples, before the first step."""
        return self.history.evals[0].loss if self.history.evals else None

    @property
    def loss_after(self) -> float | None:
        """On the held-out examples, of the weights kept."""
        found = [one.loss for one in self.history.evals if one.step == self.kept_step]
        return found[-1] if found else None
