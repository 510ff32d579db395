"""Several sequences decoding together: one batch a step holds everyone's next token.

Requests join and leave between steps, so a server's scheduler can stand on `BatchDecoder`;
`generate_many` is the plain loop over it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context, ContextFull
from localllm.engine.sampling import Sampler
from localllm.engine.text import StopMatcher, Utf8Assembler
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Accounting, FinishReason, Sampling


@dataclass(frozen=True)
class Step:
    """What one step brought one request: text to show, and its account when it ended."""

    request: int
    text: str
    token: int | None  # None where a request ended without sampling
    accounting: Accounting | None = None


@dataclass(frozen=True)
class Completion:
    """One whole answer."""

    text: str
    tokens: tuple[int, ...]
    accounting: Accounting


@dataclass
class _Slot:
    """One sequence at work. `fed` of `prompt` are in the batch or in memory."""

    request: int
    sequence: int
    prompt: Sequence[int]
    sampling: Sampling
    sampler: Sampler
    joined: float
    fed: int = 0
    tokens: list[int] = field(default_factory=list)
    output: int | None = None  # index of its logits in the batch under way
    prompt_done: float = 0.0
    last_at: float = 0.0
    ending: FinishReason | None = None  # at the next step, without sampling
    utf8: Utf8Assembler = field(default_factory=Utf8Assembler)
    stop: StopMatcher = field(default_factory=lambda: StopMatcher(()))

    @property
    def position(self) -> int:
        """Where its next token stands in its sequence."""
        return self.fed + max(0, len(self.tokens) - 1)


class BatchDecoder:
    """Runs up to `context.n_seq_max` requests at a time; one thread drives it.

    A step costs about the same for one request as for several, up to what the hardware
    computes at once: that is where the gain comes from. Prompts are fed in what room a
    batch has left, so a long prompt does not hold up those who are generating.
    """

    def __init__(self, context: Context) -> None:
        context.require_generation()
        self.context = context
        self._tokenizer = context.model.tokenizer
        self._eog = self._tokenizer.eog_tokens
        self._batch = TokenBatch(context.n_batch)
        self._free = deque(range(context.n_seq_max))
        self._slots: list[_Slot] = []
        self._next_request = 0
        context.clear()

    @property
    def free(self) -> int:
        """Requests that may join now."""
        return len(self._free)

    @property
    def active(self) -> int:
        return len(self._slots)

    def join(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        logit_bias: Mapping[int, float] | None = None,
    ) -> int:
        """Start a request before the next step; its number.

        Raises UsageProblem for a prompt that is empty or longer than a sequence's context,
        EngineError when all sequences are taken.
        """
        limit = self.context.n_ctx_seq
        if not 0 < len(prompt) <= limit:
            raise UsageProblem(f"the prompt is {len(prompt)} tokens, a sequence holds 1 to {limit}")
        if not all(0 <= token < self._tokenizer.n_vocab for token in prompt):
            raise UsageProblem("the prompt holds tokens that this model does not have")
        if not self._free:
            raise EngineError(f"all {self.context.n_seq_max} sequences are taken")
        sampler = Sampler(self._tokenizer, sampling, logit_bias, n_ctx=limit)
        sampler.accept_prompt(prompt)
        slot = _Slot(
            request=self._next_request,
            sequence=self._free.popleft(),
            prompt=prompt,
            sampling=sampling,
            sampler=sampler,
            joined=time.perf_counter(),
            ending="length" if sampling.max_tokens == 0 else None,
            stop=StopMatcher(sampling.stop),
        )
        self._next_request += 1
        self._slots.append(slot)
        return slot.request

    def cancel(self, request: int) -> None:
        """End a request at the next step, with finish reason `cancelled`."""
        for slot in self._slots:
            if slot.request == request:
                slot.ending = "cancelled"

    def step(self) -> list[Step]:
        """Decode one batch; what it brought each request that sampled or ended.

        When the shared cache of a `kv_unified` context is full, the latest request ends with
        finish reason `context`. After an exception, Ctrl-C included, only `close` is left.
        """
        steps = [self._end(slot, slot.ending) for slot in list(self._slots) if slot.ending]
        if not self._slots:
            return steps
        self._fill()
        try:
            self.context.arm()
            self.context.interruptible(lambda: self.context.decode(self._batch.native))
        except ContextFull:
            return [*steps, self._give_way()]
        now = time.perf_counter()
        for slot in list(self._slots):
            if slot.output is not None:
                steps.append(self._sample(slot, slot.output, now))
        return steps

    def run(self) -> Iterator[Step]:
        """Step until nobody is left."""
        while self._slots:
            yield from self.step()

    def close(self) -> None:
        """End everyone and free the batch. The context stays."""
        for slot in list(self._slots):
            self._end(slot, "cancelled")
        self._batch.close()

    # --- one step ------------------------------------------------------------------------

    def _fill(self) -> None:
        """Everyone's next token first, then prompts into what room is left."""
        batch = self._batch
        batch.clear()
        for slot in self._slots:
            slot.output = None
            if slot.tokens:
                slot.output = batch.add(slot.tokens[-1], slot.position, slot.sequence, output=True)
        for slot in self._slots:
            if slot.tokens:
                continue
            part = slot.prompt[slot.fed : slot.fed + batch.room]
            for i, token in enumerate(part, start=slot.fed):
                is_last = i == len(slot.prompt) - 1
                index = batch.add(token, i, slot.sequence, output=is_last)
                slot.output = index if is_last else None
            slot.fed += len(part)

    def _sample(self, slot: _Slot, output: int, now: float) -> Step:
        if not slot.tokens:
            slot.prompt_done = now
        token = slot.sampler.sample(self.context, output)
        slot.tokens.append(token)
        slot.last_at = time.perf_counter()
        if token in self._eog:
            return self._end(slot, "stop", token)
        text = slot.stop.feed(slot.utf8.feed(self._tokenizer.piece(token)))
        reason = self._limit(slot)
        if reason is not None:
            return self._end(slot, reason, token, text)
        return Step(slot.request, text, token)

    def _limit(self, slot: _Slot) -> FinishReason | None:
        if slot.stop.stopped:
            return "stop"
        if len(slot.tokens) == slot.sampling.max_tokens:
            return "length"
        if len(slot.prompt) + len(slot.tokens) > self.context.n_ctx_seq:
            return "context"
        return None

    def _give_way(self) -> Step:
        """The shared cache is full: the latest to join ends, so that the others can go on."""
        slot = self._slots[-1]
        for other in self._slots:
            self._unfeed(other)
        return self._end(slot, "context")

    def _unfeed(self, slot: _Slot) -> None:
        """Take back what the refused batch held of this prompt: memory is as before it."""
        if not slot.tokens:
            slot.fed = self.context.length(slot.sequence)

    def _end(
        self, slot: _Slot, reason: FinishReason, token: int | None = None, text: str = ""
    ) -> Step:
        self._slots.remove(slot)
        self.context.truncate(0, slot.sequence)
        self._free.append(slot.sequence)
        slot.sampler.close()
        shown = text + (slot.stop.finish() if reason != "cancelled" else "")
        return Step(slot.request, shown, token, _account(slot, reason))


def generate_many(
    context: Context, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling]
) -> list[Completion]:
    """Answer all `prompts`, `context.n_seq_max` at a time; in the order given.

    A seed gives each its answer whatever runs beside it (to rounding: batches of other
    sizes may add in another order).
    """
    if len(prompts) != len(samplings):
        raise UsageProblem(f"{len(prompts)} prompts, but {len(samplings)} samplings")
    decoder = BatchDecoder(context)
    waiting = deque(zip(prompts, samplings, strict=True))
    texts: dict[int, str] = {}
    tokens: dict[int, list[int]] = {}
    accounts: dict[int, Accounting] = {}
    try:
        while waiting or decoder.active:
            while waiting and decoder.free:
                request = decoder.join(*waiting.popleft())
                texts[request], tokens[request] = "", []
            for step in decoder.step():
                texts[step.request] += step.text
                if step.token is not None:
                    tokens[step.request].append(step.token)
                if step.accounting is not None:
                    accounts[step.request] = step.accounting
    finally:
        decoder.close()
    return [Completion(texts[i], tuple(tokens[i]), accounts[i]) for i in range(len(prompts))]


def _account(slot: _Slot, reason: FinishReason) -> Accounting:
    return Accounting(
        prompt_tokens=len(slot.prompt),
        cached_tokens=0,
        completion_tokens=len(slot.tokens),
        prompt_s=slot.prompt_done - slot.joined if slot.tokens else 0.0,
        decode_s=slot.last_at - slot.prompt_done if len(slot.tokens) > 1 else 0.0,
        first_token_s=slot.prompt_done - slot.joined if slot.tokens else 0.0,
        finish_reason=reason,
        seed=slot.sampler.seed,
        truncated=reason == "context",
    )
