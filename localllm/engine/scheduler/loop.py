"""The step loop: one batch a step holds everyone's next token, and prompts in what room is left.

Driven by one thread. `Scheduler` gives it a thread of its own, `generate_many` the caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from localllm.engine.adapter import attached, switch
from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context, ContextFull
from localllm.engine.scheduler.door import Door
from localllm.engine.scheduler.room import Holding
from localllm.engine.scheduler.rows import RowTimes
from localllm.engine.scheduler.scores import shared_outputs, tell_scores
from localllm.engine.scheduler.seeing import see
from localllm.engine.scheduler.share import (
    Part,
    Turns,
    fill,
    most_singles,
    tiled_attention,
    tokens_a_step,
)
from localllm.engine.scheduler.slot import AdapterKey, Slot, adapter_key
from localllm.engine.vision.prompt import Run
from localllm.errors import EngineError, Interrupted, LocalLLMError

# Steps of so many tokens tell how long a prompt takes.
_PACED = 32


class StepLoop(Door):
    """Computes everyone who was let in, step by step."""

    def __init__(
        self,
        context: Context,
        holding: Holding | None = None,
        chunk: int | None = None,
        rows: RowTimes | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        """`chunk` bounds the tokens of a step; see SchedulerOptions. With `rows` the sizes of steps
        follow what was measured; without, the same requests make the same steps each time.
        `before` is called each time before something is computed."""
        super().__init__(context, holding or Holding())
        self._chunk = tokens_a_step(context, chunk)
        tiled = tiled_attention(context)
        self._turns = Turns(self._chunk, most_singles(context), rows, tiled=tiled)
        self._batch = TokenBatch(self._chunk)
        self._rows = rows
        self._before = before or (lambda: None)
        self._most_outputs = context.options.n_outputs_max or context.n_batch
        self._n_refused = 0  # batches in a row that found no room

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
        self._resume(alone=self._n_refused > 0)
        self._place()
        parts = self._parts()
        if not parts:
            return
        image = parts[0].image
        if image is None:
            fill(self._batch, parts)
            self._pad()
        self._before()
        begun = time.perf_counter()
        try:
            if image is None:
                self.context.interruptible(self._decode)
            elif not self._see(parts[0].slot, image):
                return
        except ContextFull:
            self._relieve(parts)
            return
        except Interrupted:
            self._after_abort(parts)
            raise
        finally:
            took = time.perf_counter() - begun
            self._turns.took(took, image=image is not None)
        if image is None:
            self._measure(parts, took)
        self._advance(parts)

    def _decode(self) -> None:
        self.context.decode(self._batch.native)
        self.context.synchronize()  # a GPU would go on while the clock has stopped

    def _pad(self) -> None:
        """Let prompts fill up the tile of the last rows whose logits are wanted."""
        batch = self._batch
        if self._rows is None or not self.memory.pooled or len(batch) > self.context.n_ubatch:
            return  # which of several micro-batches they are in is not known
        n = batch.n_outputs
        if n < len(batch):
            batch.ask_more(self._rows.padded(n, min(len(batch), self._most_outputs)) - n)

    def _measure(self, parts: list[Part], took: float) -> None:
        n = len(self._batch)
        if self._rows is not None and all(part.slot.remaining == 1 for part in parts):
            self._rows.took(n, took)
        if n >= _PACED:
            self.memory.pace.computed(n, took)

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
            if self._scoring:
                parts = shared_outputs(parts, self._most_outputs)
            needed = sum(part.n_cells for part in parts)
            if self.memory.make_room(needed):
                return parts
            if not self._put_aside():
                return self._squeezed(parts)

    def _key(self) -> AdapterKey:
        return adapter_key(attached(self.context))

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
            if part.first is not None and not self._tell_scores(part, part.first):
                continue
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

    def _tell_scores(self, part: Part, first: int) -> bool:
        """False where they are NaN, and the request has ended."""
        try:
            tell_scores(self.context, part, first)
        except LocalLLMError as error:
            self._end(part.slot, "cancelled", error)
            return False
        return True

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
        if slot.job.request.sampling.max_tokens == 0:  # its prompt was scored, that is all
            self._end(slot, "length")
            return
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
