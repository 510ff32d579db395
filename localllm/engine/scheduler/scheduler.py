"""Continuous batching: many requests, one context, one thread that computes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from localllm.closing import Closing
from localllm.engine.context import Context
from localllm.engine.scheduler.answer import Answer, OnEvent
from localllm.engine.scheduler.load import Load
from localllm.engine.scheduler.loop import StepLoop
from localllm.engine.scheduler.request import Request
from localllm.engine.scheduler.room import Holding
from localllm.engine.scheduler.rows import RowTimes
from localllm.engine.scheduler.worker import Worker


@dataclass(frozen=True)
class SchedulerOptions:
    """`max_waiting` requests may wait for a slot; the next is refused with Busy. So is one whose
    images would make more than `max_waiting_images` of those that wait: each keeps its pixels in
    memory, some megabytes.

    `chunk` bounds the tokens of a step, and with them how long everyone's next token takes while
    prompts are computed: a smaller one makes those who are answered steadier, and those who wait
    for their first token wait longer. None is two micro-batches (n_ubatch) of at most n_batch.
    Models with sliding windows have one micro-batch a step at most.

    `on_step` is called on the computing thread when everyone has been told what a step brought,
    right before the next one is computed or there is nothing to do: to wake up another thread once
    for all of it, when it has the interpreter to itself. It must be quick, and not raise.
    """

    max_waiting: int = 256
    max_waiting_images: int = 32
    chunk: int | None = None
    on_step: Callable[[], None] | None = None
    holding: Holding = field(default_factory=Holding)


class Scheduler(Closing):
    """Answers requests on `context`, up to its `n_seq_max` at once; the rest wait their turn.

    The context belongs to the scheduler until `close`, which does not free it. A context made
    with `kv_unified` shares prefixes without copying and gives a long request the room that short
    ones leave; otherwise each slot has its own part of n_ctx.

    With equal seeds and options a request is answered as it would be alone: same sampler, same
    state, same tokens in its memory. Only the logits may differ, since llama.cpp adds in another
    order in batches of other shapes, for a prompt whose beginning came from another request, and
    where cells lie in another order: where two tokens are equally likely to within that, the
    choice may differ. With float weights that is about 0.02; quantized ones, which round
    activations to 8 bits, make more of it: up to 1 on Gemma 3 270M Q4_K_M.
    """

    def __init__(self, context: Context, options: SchedulerOptions | None = None) -> None:
        """Raises EngineError for a model that does not generate."""
        options = options or SchedulerOptions()
        self.context = context
        on_step = options.on_step or (lambda: None)
        loop = StepLoop(context, options.holding, options.chunk, RowTimes(), on_step)
        self.tokenizer = loop.tokenizer
        self._worker = Worker(loop, options.max_waiting, options.max_waiting_images, on_step)
        self._finalizer = weakref.finalize(self, self._worker.close, finish=False)
        self._finalizer.atexit = False  # too late: samplers would be freed before

    def submit(self, request: Request, on_event: OnEvent | None = None) -> Answer:
        """Begin a request; returns at once, from any thread.

        `on_event` is called on the computing thread with every event and must be quick: hand
        over (loop.call_soon_threadsafe, queue.put) and return. Without it, read the Answer.
        Raises UsageProblem for what cannot be computed (nothing is ever cut off), Busy when too
        many wait, Stopped after `close` or a failure of the engine.
        """
        answer = Answer(request, on_event)
        answer.bind(self._worker)
        self._worker.submit(answer.job)
        return answer

    @property
    def load(self) -> Load:
        return self._worker.load()

    @property
    def idle(self) -> bool:
        """Nobody is at work and nobody waits."""
        return self._worker.idle

    @property
    def alive(self) -> bool:
        """False once closed, or once the engine has failed: every `submit` then raises."""
        return self._worker.alive

    def close(self, *, finish: bool = False) -> None:
        """Refuse new requests, let the others end or cancel them, stop. May be called twice."""
        self._worker.close(finish)
        if finish:
            self._finalizer.detach()
