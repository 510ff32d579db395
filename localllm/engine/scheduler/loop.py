"""The step loop: one batch a step holds everyone's next token, and prompts in what room is left.

Driven by one thread. `Scheduler` gives it a thread of its own, `generate_many` the caller's.
"""

from __future__ import annotations

import time

from localllm.engine.adapter import attached, switch
from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context, ContextFull
from localllm.engine.scheduler.crowd import Crowd
from localllm.engine.scheduler.load import Counters
from localllm.engine.scheduler.memory import SequenceMemory
from localllm.engine.scheduler.prefix import tokens_array
from localllm.engine.scheduler.request import Request, check_request
from localllm.engine.scheduler.room import Holding
from localllm.engine.scheduler.sample import Sample
from localllm.engine.scheduler.seeing import see
from localllm.engine.scheduler.share import Part, Turns, fill, most_singles, tokens_a_step
from localllm.engine.scheduler.slot import AdapterKey, Job, Slot, adapter_key
from localllm.engine.vision_prompt import Run
from localllm.errors import EngineError, Interrupted, LocalLLMError
from localllm.generation import FinishReason

# Cells that a newcomer must find free beside its prompt, so that it does not give way at once.
_MARGIN = 32
# Steps of so many tokens tell how long a prompt takes.
_PACED = 32


class StepLoop:
    """Runs up to `context.n_seq_max` samples at a time.

    Whoever was let in never ends because another was: when a shared cache is full, what is held
    for reuse goes first, and then the youngest is put aside and computes what it had again
    later (its sampler stays, so its answer goes on). Reserving prompt + max_tokens at admission
    instead would leave most of the cache unused, since most clients name no limit and most
    answers end early.
    """

    def __init__(
        self, context: Context, holding: Holding | None = None, chunk: int | None = None
    ) -> None:
        """`chunk` bounds the tokens of a step; see SchedulerOptions."""
        context.require_generation()
        self.context = context
        self.tokenizer = context.model.tokenizer
        self.memory = SequenceMemory(context, holding or Holding())
        self.counters = Counters()
        self._crowd = Crowd()
        self._chunk = tokens_a_step(context, chunk)
        self._turns = Turns(self._chunk, most_singles(context))
        self._batch = TokenBatch(self._chunk)
        self._n_refused = 0  # batches in a row that found no room
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

    # --- joining and leaving -------------------------------------------------------------

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
        )
        self._crowd.join(slot)
        if request.sampling.max_tokens == 0:
            self._end(slot, "length")

    def _has_room(self, n_cells: int) -> bool:
        """Whether so many cells are free, or held only for reuse, beside what is promised."""
        promised = sum(slot.cells_left + _MARGIN for slot in self.running)
        memory = self.memory
        return not self.running or (
            memory.book.free + memory.held_cells >= n_cells + _MARGIN + promised
        )

    def fail(self, job: Job, error: LocalLLMError) -> None:
        """End what is left of a request with an error."""
        for slot in self.slots:
            if slot.job is job:
                self._end(slot, "cancelled", error)

    def close(self) -> None:
        """Cancel everyone, forget everything. The context stays, with its own adapters."""
        for slot in self.slots:
            self._end(slot, "cancelled")
        self.memory.clear()
        if not self.context.closed and attached(self.context) != self._base:
            switch(self.context, self._base)
        self._batch.close()

    # --- one step ------------------------------------------------------------------------

    def step(self) -> None:
        """Compute one batch and tell everyone what it brought.

        Raises Interrupted when the computation was aborted; everything is then as before the
        step, and the next one goes on. Any other exception leaves only `close`.
        """
        for slot in self.slots:
            if slot.job.cancelled:
                self._end(slot, "cancelled")
        self._resume()
        self._place()
        parts = self._parts()
        if not parts:
            return
        begun = time.perf_counter()
        image = parts[0].image
        try:
            if image is not None:
                if not self._see(parts[0].slot, image):
                    return
            else:
                fill(self._batch, parts)
                self.context.interruptible(lambda: self.context.decode(self._batch.native))
        except ContextFull:
            self._relieve(parts)
            return
        except Interrupted:
            self._after_abort(parts)
            raise
        finally:
            took = time.perf_counter() - begun
            self._turns.took(took, image=image is not None)
        self._advance(parts)
        if image is None and len(self._batch) >= _PACED:
            self.memory.pace.computed(len(self._batch), took)

    def _see(self, slot: Slot, image: Run) -> bool:
        """Encode and compute an image. False where nobody waits for it any more."""
        try:
            return see(self.context, slot, image, self._chunk)
        except (ContextFull, Interrupted):
            raise
        except EngineError as error:  # of this image alone, or of its projector
            self._rewind(slot)
            self.fail(slot.job, error)
            return False

    def _resume(self) -> None:
        """Let those who were put aside go on, the oldest first."""
        while (
            self._crowd.parked
            and not (self._n_refused and self.running)
            and self._has_room(self._crowd.parked[0].cells_in_all)
        ):
            self._crowd.resume()

    def _place(self) -> None:
        """Give a sequence to who has none, and look whether others' prompts have come so far."""
        for slot in list(self.running):
            leader = slot.leader
            if leader is not None:
                on_its_way = leader in self.running and leader.fed < slot.leader_at
                if on_its_way and (leader.sequence is not None or leader.waits):
                    continue
                slot.leader = None
            if slot.sequence is None:
                self.memory.place(slot, self.running)
                if slot.sequence is not None:
                    self.counters.cached_tokens += slot.cells(slot.fed)

    def _parts(self) -> list[Part]:
        """Who feeds how many tokens, within the cells that there are."""
        while True:
            ready = [slot for slot in self.running if slot.sequence is not None]
            if not ready:
                return []
            group = self._turns.group(ready)
            if group[0].key != self._key():
                switch(self.context, group[0].adapters)
            parts = self._turns.parts(group)
            needed = sum(part.n_cells for part in parts)
            if self.memory.make_room(needed):
                return parts
            if not self._put_aside():
                return self._squeezed(parts)

    def _key(self) -> AdapterKey:
        return adapter_key(attached(self.context))

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

    def _squeezed(self, parts: list[Part]) -> list[Part]:
        """One is left and wants more than there is: give it that, or let it end."""
        part = parts[0]
        free = self.memory.book.free
        if free == 0 or part.image is not None:
            self._end(part.slot, "context")
            return []
        return [Part(part.slot, min(part.n, free))]

    def _relieve(self, parts: list[Part]) -> None:
        """llama.cpp found no room, whatever the book says. Nothing was computed, but for the
        beginning of an image."""
        if parts[0].image is not None:
            self._rewind(parts[0].slot)
        self._n_refused += 1
        if self._n_refused > 4 * self.context.n_seq_max + 64:
            raise EngineError("llama.cpp finds no room in its cache, though it should be empty")
        if self.memory.evict() or self._put_aside():
            return
        part = parts[0]
        if part.n > 1 and part.image is None:
            self._turns.limit = max(1, part.n // 2)  # a smaller piece may fit
        else:
            self._end(part.slot, "context")

    def _after_abort(self, parts: list[Part]) -> None:
        """Go back to before the batch, of which a part may have been computed."""
        for part in parts:
            self._rewind(part.slot)

    def _rewind(self, slot: Slot) -> None:
        sequences = self.memory.sequences
        assert slot.sequence is not None
        # A state half updated is of no use, and cannot be told from a whole one.
        usable = sequences.kind != "state"
        if not usable or sequences.truncate(slot.fed, slot.sequence) != slot.fed:
            self.memory.forget(slot)

    def _advance(self, parts: list[Part]) -> None:
        memory, counters = self.memory, self.counters
        counters.steps += 1
        self._n_refused = 0
        self._turns.limit = self._chunk
        for part in parts:
            slot = part.slot
            assert slot.sequence is not None
            slot.fed += part.n
            memory.book.grow(slot.sequence, part.n_cells)
            if part.n > 1 or not slot.samples[0].n_tokens:
                counters.prompt_tokens += part.n_cells
            if slot.fed in slot.marks:
                slot.marks.discard(slot.fed)
                memory.remember_place(slot)
        for part in parts:
            if part.output is not None and not part.slot.ended:
                for slot in self._separate(part.slot):
                    self._sample(slot, part.output)

    def _separate(self, slot: Slot) -> list[Slot]:
        """After the prompt each sample goes on in a sequence of its own."""
        found = [slot]
        extra, slot.samples = slot.samples[1:], slot.samples[:1]
        for sample in extra:
            twin = Slot(slot.job, [sample], slot.tokens[:], slot.adapters, slot.key)
            twin.begun_at = slot.begun_at
            twin.sequence = self.memory.copy_for_sample(slot)
            twin.fed = slot.fed if self.memory.sequences.length(twin.sequence) else 0
            self._crowd.join(twin)
            found.append(twin)
        return found

    def _sample(self, slot: Slot, output: int) -> None:
        sample = slot.samples[0]
        try:
            token, event = sample.take(self.context, output, slot.begun_at)
        except LocalLLMError as error:  # of this request alone: a grammar at its end, NaN
            self._end(slot, "cancelled", error)
            return
        self.counters.completion_tokens += 1
        slot.tokens.append(token)
        if event.last:
            self._leave(slot)
        slot.job.send(event)

    def _end(self, slot: Slot, reason: FinishReason, error: LocalLLMError | None = None) -> None:
        """End all samples of a slot without sampling."""
        self._leave(slot)
        for sample in slot.samples:
            slot.job.send(sample.end(reason, error=error))

    def _leave(self, slot: Slot) -> None:
        slot.ended = True
        self._crowd.leave(slot)
        self.memory.finish(slot)
        if slot.job.n_open == slot.width:
            self.counters.finished += 1
