"""Who is let in, and how everyone leaves."""

from __future__ import annotations

from localllm.engine.adapter import attached
from localllm.engine.context import Context
from localllm.engine.scheduler.crowd import Crowd
from localllm.engine.scheduler.load import Counters
from localllm.engine.scheduler.memory import SequenceMemory
from localllm.engine.scheduler.prefix import tokens_array
from localllm.engine.scheduler.request import Request, check_request
from localllm.engine.scheduler.room import Holding
from localllm.engine.scheduler.sample import Sample
from localllm.engine.scheduler.scores import to_score
from localllm.engine.scheduler.slot import Job, Slot, adapter_key
from localllm.errors import LocalLLMError
from localllm.generation import FinishReason

# Cells that a newcomer must find free beside its prompt, so that it does not give way at once.
_MARGIN = 32


class Door:
    """Up to `context.n_seq_max` samples at a time, in a context's memory.

    Whoever was let in never ends because another was: when a shared cache is full, what is held
    for reuse goes first, and then the youngest is put aside and computes what it had again
    later (its sampler stays, so its answer goes on). Reserving prompt + max_tokens at admission
    instead would leave most of the cache unused, since most clients name no limit and most
    answers end early.
    """

    def __init__(self, context: Context, holding: Holding) -> None:
        context.require_generation()
        self.context = context
        self.tokenizer = context.model.tokenizer
        self.memory = SequenceMemory(context, holding)
        self.counters = Counters()
        self._crowd = Crowd()
        self._scoring: set[Slot] = set()  # whose prompts' tokens were to be scored
        self._base = attached(context)

    @property
    def busy(self) -> bool:
        return bool(self.slots)

    @property
    def n_samples(self) -> int:
        """Samples that are at work or put aside."""
        return sum(slot.width for slot in self.slots)

    @property
    def running(self) -> list[Slot]:
        """In order of admission."""
        return self._crowd.running

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self._crowd.slots

    # --- joining -------------------------------------------------------------------------

    def check(self, request: Request) -> None:
        """Raise UsageProblem for what cannot be computed. From any thread."""
        check_request(request, self.context, self.tokenizer.n_vocab)

    def samples(self, job: Job) -> list[Sample]:
        """Make what chooses the tokens. Raises UsageProblem for its values, or the grammar."""
        return [
            Sample(self.context, self.tokenizer, job.request, i, job.submitted)
            for i in range(job.request.n)
        ]

    def may_admit(self, job: Job) -> bool:
        """Whether there is room for it. Those who were put aside come first."""
        request = job.request
        if self.n_samples + request.n > self.context.n_seq_max or self._crowd.parked:
            return False
        return self._has_room(request.n_cells)

    def admit(self, job: Job, samples: list[Sample]) -> None:
        """Let a request in before the next step."""
        request = job.request
        adapters = self._base if request.adapters is None else request.adapters
        slot = Slot(
            job=job,
            samples=samples,
            tokens=tokens_array(request.prompt),
            adapters=adapters,
            key=adapter_key(adapters),
            to_score=to_score(request),
        )
        self._crowd.join(slot)
        if slot.to_score:
            self._scoring.add(slot)
        if request.sampling.max_tokens == 0 and not slot.to_score:
            self._end(slot, "length")

    def _has_room(self, n_cells: int) -> bool:
        """Whether so many cells are free, or held only for reuse, beside what is promised."""
        promised = sum(slot.cells_left + _MARGIN for slot in self.running)
        memory = self.memory
        return not self.running or (
            memory.book.free + memory.held_cells >= n_cells + _MARGIN + promised
        )

    # --- giving way, and coming back -----------------------------------------------------

    def _put_aside(self) -> bool:
        """Take the youngest out of the cache; False if only one has anything in it."""
        slot = self._crowd.youngest()
        if slot is None:
            return False
        self.memory.forget(slot)
        slot.marks.clear()
        self._crowd.park(slot)
        self.counters.preemptions += 1
        return True

    def _resume(self, *, alone: bool) -> None:
        """Let those who were put aside go on, the oldest first; `alone`: only one, where nobody
        is at work."""
        while (
            self._crowd.parked
            and not (alone and self.running)
            and self._has_room(self._crowd.parked[0].cells_in_all)
        ):
            self._crowd.resume()

    # --- leaving -------------------------------------------------------------------------

    def fail(self, job: Job, error: LocalLLMError) -> None:
        """End what is left of a request with an error."""
        for slot in self.slots:
            if slot.job is job:
                self._end(slot, "cancelled", error)

    def _end(self, slot: Slot, reason: FinishReason, error: LocalLLMError | None = None) -> None:
        """End all samples of a slot without sampling."""
        self._leave(slot)
        for sample in slot.samples:
            slot.job.send(sample.end(reason, error=error))

    def _leave(self, slot: Slot) -> None:
        slot.ended = True
        self._scoring.discard(slot)
        self._crowd.leave(slot)
        self.memory.finish(slot)
        if slot.job.n_open == slot.width:
            self.counters.finished += 1
