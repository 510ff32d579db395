"""A request on its way, and the sequences that work on it."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from localllm.engine.adapter import Attached
from localllm.engine.scheduler.request import DeadlinePassed, Event, Request
from localllm.engine.scheduler.sample import Sample
from localllm.engine.vision.prompt import MediaPrompt, Run, Wide, cells_of

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
    def n_images(self) -> int:
        media = self.request.media
        return 0 if media is None else media.n_images

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
    samples next, whether it began, goes on, or was put aside and computes its answer again (an
    image is never the last).
    """

    job: Job
    samples: list[Sample]
    tokens: array[int]
    adapters: tuple[Attached, ...]
    key: AdapterKey
    order: int = -1  # of admission: the highest gives way first
    sequence: int | None = None
    fed: int = 0
    begun_at: float = 0.0  # when it first got a sequence
    leader: Slot | None = None  # computes what this one can copy...
    leader_at: int = 0  # ...once it has come so far
    marks: set[int] = field(default_factory=set)  # where a chunk ends, to be remembered
    stepped: int = 0  # when it last had its next token, in the order of everyone's
    ended: bool = False
    to_score: int = 0  # tokens of the prompt whose logprobs are still to be told

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.fed

    @property
    def media(self) -> MediaPrompt | None:
        return self.job.request.media

    @property
    def image(self) -> Run | None:
        """The image that is next to be computed."""
        media = self.media
        return None if media is None else media.image_at(self.fed)

    @property
    def wide(self) -> Wide:
        media = self.media
        return () if media is None else media.wide

    def cells(self, n_tokens: int) -> int:
        """Cells that the first `n_tokens` take."""
        media = self.media
        return n_tokens if media is None else cells_of(n_tokens, media.wide)

    @property
    def cells_in_all(self) -> int:
        return self.cells(len(self.tokens))

    @property
    def cells_left(self) -> int:
        """Cells that what is still to be computed will take."""
        return self.cells_in_all - self.cells(self.fed)

    @property
    def width(self) -> int:
        """Sequences that this slot has or will need."""
        return len(self.samples)

    @property
    def waits(self) -> bool:
        return self.leader is not None
