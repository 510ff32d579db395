"""What clients get through the engine's scheduler: the path that `serve` takes, without HTTP.

Closed loop: so many clients, each asking again as soon as it is answered. Everything that
serving does for an answer is done (queue, prompt, sampling by the default chain, text, stop
strings); a token that would end the answer does not. Prompts are random tokens, no two alike,
and nothing of them is kept.
"""

from __future__ import annotations

import queue
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import LocalLLMError, UsageProblem
from localllm.library.bench.measuring.failures import failure_of
from localllm.library.bench.measuring.latency import percentiles
from localllm.library.bench.record import BatchedRow, Failure, ServingRow

if TYPE_CHECKING:
    from localllm.engine.context import Context
    from localllm.engine.options import ContextOptions, LoadOptions
    from localllm.engine.scheduler import Event, Scheduler
    from localllm.placement import Opened, PlanOptions

_NEVER = "\x00<never>\x00"  # a stop string keeps the matcher at work, as a chat template's does


def serving(
    path: Path,
    n_parallel: Sequence[int] = (1, 2, 4, 8),
    n_prompt: int = 128,
    n_gen: int = 128,
    options: PlanOptions | None = None,
    *,
    n_each: int = 3,
    batched: Sequence[BatchedRow] = (),
    load: LoadOptions | None = None,
    context: ContextOptions | None = None,
    require_gpu: bool = False,
    advance: Callable[[int], None] | None = None,
    adapters: Sequence[tuple[Path, float]] = (),
) -> tuple[ServingRow, ...]:
    """A row for each of `n_parallel` clients (in their order), each asking `n_each` times.

    The model is loaded once, placed for the largest number that fits; each number has a context
    of its own size, one pool of cells for all. `batched` are the rows that the gap is taken to,
    those with the same numbers. What does not fit or fails is a row with a failure. `advance`
    counts rows. Raises what opening the model raises where that is not for want of memory.
    """
    from localllm.engine.options import ContextOptions
    from localllm.placement import PlanOptions, open_model

    if not n_parallel or min(*n_parallel, n_prompt, n_gen, n_each) < 1:
        raise UsageProblem("serving needs clients, a prompt, tokens to generate and answers")
    options = replace(options or PlanOptions(), n_ctx=n_prompt + n_gen, kv_unified=True)
    peers = {(b.n_parallel, b.n_prompt, b.n_gen): b for b in batched if b.failure is None}
    rows: dict[int, ServingRow] = {}
    opened: Opened | None = None
    try:
        for n in sorted(set(n_parallel), reverse=True):
            try:
                if opened is None:
                    wanted = replace(context or ContextOptions(), n_outputs_max=n)
                    opened = open_model(
                        path, replace(options, n_parallel=n), require_gpu=require_gpu, load=load,
                        context=wanted, adapters=adapters,
                    )  # fmt: skip
                    made = opened.context
                else:
                    made = _smaller(opened, n, n_prompt + n_gen)
                with made:
                    found = _measure(made, n, n_prompt, n_gen, n_each)
                rows[n] = _row(n, n_prompt, n_gen, found, peers.get((n, n_prompt, n_gen)))
            except (LocalLLMError, MemoryError) as error:
                failure = failure_of(error)
                if failure is None or (opened is None and n == min(n_parallel)):
                    raise
                rows[n] = _failed(n, n_prompt, n_gen, failure)
            if advance is not None:
                advance(1)
    finally:
        if opened is not None:
            opened.close()
    return tuple(rows[n] for n in n_parallel)


def _smaller(opened: Opened, n: int, n_ctx: int) -> Context:
    """A context for fewer clients, otherwise as the first."""
    from localllm.engine.adapter import attach, attached
    from localllm.engine.context import Context

    like = opened.context.options
    made = Context(opened.model, replace(like, n_ctx=n_ctx * n, n_seq_max=n, n_outputs_max=n))
    if adapters := attached(opened.context):
        attach(made, adapters)
    return made


@dataclass
class _Found:
    """Seconds; `first_s` from asking to the first token, `between_s` between tokens."""

    n_requests: int = 0
    n_tokens: int = 0
    total_s: float = 0.0
    first_s: list[float] = field(default_factory=list)
    between_s: list[float] = field(default_factory=list)


def _measure(context: Context, n: int, n_prompt: int, n_gen: int, n_each: int) -> _Found:
    from localllm.engine.scheduler import Scheduler

    prompts = deque(_prompts(context, n_prompt, n * (n_each + 1)))
    with Scheduler(context) as scheduler:
        _loop(scheduler, deque(prompts.popleft() for _ in range(n)), n, min(n_gen, 4))  # warm-up
        return _loop(scheduler, prompts, n, n_gen)


def _loop(scheduler: Scheduler, prompts: deque[list[int]], n: int, n_gen: int) -> _Found:
    """`n` clients until all prompts are answered."""
    found, ended = _Found(), queue.SimpleQueue["Event"]()
    begun, n_open = time.perf_counter(), 0
    while prompts or n_open:
        while prompts and n_open < n:
            _ask(scheduler, prompts.popleft(), n_gen, found, ended)
            n_open += 1
        event = ended.get()
        n_open -= 1
        if event.error is not None:
            raise event.error
        assert event.accounting is not None
        found.n_requests += 1
        found.n_tokens += event.accounting.completion_tokens
    found.total_s = time.perf_counter() - begun
    return found


def _ask(
    scheduler: Scheduler,
    prompt: list[int],
    n_gen: int,
    found: _Found,
    ended: queue.SimpleQueue[Event],
) -> None:
    from localllm.engine.scheduler import Request
    from localllm.generation import Sampling

    last_at = begun = time.perf_counter()

    def on_event(event: Event) -> None:
        nonlocal last_at
        now = time.perf_counter()
        if event.token is not None:
            (found.first_s if last_at == begun else found.between_s).append(now - last_at)
            last_at = now
        if event.last:
            ended.put(event)

    sampling = Sampling(max_tokens=n_gen, stop=(_NEVER,))
    request = Request(prompt, sampling, ignore_eog=True, cache_prompt=False)
    scheduler.submit(request, on_event)


def _prompts(context: Context, n_prompt: int, count: int) -> list[list[int]]:
    """Random ids, BOS first where the vocabulary adds it."""
    tokenizer = context.model.tokenizer
    bos = [tokenizer.bos] if tokenizer.adds_bos and tokenizer.bos is not None else []
    draw = random.Random(0)
    return [
        (bos + [draw.randrange(tokenizer.n_vocab) for _ in range(n_prompt)])[:n_prompt]
        for _ in range(count)
    ]


def _row(n: int, n_prompt: int, n_gen: int, found: _Found, peer: BatchedRow | None) -> ServingRow:
    rate = found.n_tokens / found.total_s
    gap = None
    if peer is not None:
        # Serving's time holds its prompts too, so the batched row's must.
        gap = rate / (n * n_gen / (peer.prompt_s + peer.decode_s)) - 1
    return ServingRow(
        n_parallel=n,
        n_requests=found.n_requests,
        n_prompt=n_prompt,
        n_gen=n_gen,
        total_s=found.total_s,
        decode_tps=rate,
        requests_s=found.n_requests / found.total_s,
        first_token=percentiles(found.first_s),
        inter_token=percentiles(found.between_s),
        gap=gap,
    )


def _failed(n: int, n_prompt: int, n_gen: int, failure: Failure) -> ServingRow:
    nothing = percentiles([])
    return ServingRow(n, 0, n_prompt, n_gen, 0.0, 0.0, 0.0, nothing, nothing, None, failure)
