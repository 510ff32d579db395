"""A request on its way, and the sequences that work on it."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from localllm.engine.adapter import Attached
from localllm.engine.scheduler.request import DeadlinePassed, Event, Request
from localllm.engine.scheduler.sample import Sample

# Sequences computed with the same adapters at the same scales have the same key.
AdapterKey = tuple[tuple[int, float], ...]


def adapter_key(adapters: tuple[Attached, ...]) -> AdapterKey:
    return tuple((one.adapter.number, one.scale) for one in adapters)


@dataclass(eq=False)
class Job:
    """One request and who is told of it. `tell` is called on the thread that computes."""

    request: Request
    tell: Callable[[Event], None]
    submitted: float = field(default_factory=time.perf_counter)
    cancelled: bool = False
    n_open: int = 0  # samples that have not ended
    callback_error: BaseException | None = None  # what `tell` raised; it is told no more

    def __post_init__(self) -> None:
        self.n_open = self.request.n

    @property
    def deadline(self) -> float | None:
        """On time.perf_counter's clock."""
        limit = self.request.deadline_s
        return None if limit is None else self.submitted + limit

    def overdue(self, now: float) -> DeadlinePassed | None:
        """The error to end with, once the deadline has passed."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return None
        return DeadlinePassed(f"the answer was not done within {self.request.deadline_s:g} s")

    def send(self, event: Event) -> None:
        if event.last:
            self.n_open -= 1
        self.tell(event)


@dataclass(eq=False)
class Slot:
    """One sequence at work: `fed` of its `tokens` are in memory, the rest is to be computed.

    While the prompt is being computed all samples of a request are in one slot; then each goes
    on in its own. Nothing else tells a prompt from an answer: a slot with one token left to feed
    samples next, whether it began, goes on, or was put aside and computes its answer again.
    """

    job: Job
    samples: list[Sample]
    tokens: array[int]
    adapters: tuple[Attached, ...]
    key: AdapterKey
    order: int  # of admission: the highest gives way first
    sequence: int | None = None
    fed: int = 0
    begun_at: float = 0.0  # when it first got a sequence
    leader: Slot | None = None  # computes what this one can copy...
    leader_at: int = 0  # ...once it has come so far
    marks: set[int] = field(default_factory=set)  # where a chunk ends, to be remembered
    stepped: int = 0  # the step in which it last had its next token
    ended: bool = False

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.fed

    @property
    def width(self) -> int:
        """Sequences that this slot has or will need."""
        return len(self.samples)

    @property
    def waits(self) -> bool:
        return self.leader is not None
