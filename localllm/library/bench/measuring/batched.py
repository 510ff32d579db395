"""Throughput of several sequences decoding together, by llama-batched-bench's method.

Every sequence has a prompt of its own; prompts are computed in batches of n_batch tokens one
after the other with one wait at the end (T_PP), then each step decodes a token of every
sequence in one batch and waits (T_TG). Random tokens, no sampling. Where llama-batched-bench
measures all levels in one context made for the largest, each level has its own here, of the
size that it needs. (tools/batched-bench/batched-bench.cpp.)
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import LocalLLMError, UsageProblem
from localllm.library.bench.measuring.failures import failure_of
from localllm.library.bench.record import BatchedRow, Failure

if TYPE_CHECKING:
    from localllm.engine.batching import TokenBatch
    from localllm.engine.context import Context
    from localllm.engine.options import ContextOptions, LoadOptions
    from localllm.placement import Opened, PlanOptions

_WARM_UP = 16  # tokens, as in llama-batched-bench


def batched(
    path: Path,
    n_parallel: Sequence[int] = (1, 2, 4, 8),
    n_prompt: int = 128,
    n_gen: int = 128,
    options: PlanOptions | None = None,
    *,
    load: LoadOptions | None = None,
    context: ContextOptions | None = None,
    require_gpu: bool = False,
    advance: Callable[[int], None] | None = None,
    adapters: Sequence[tuple[Path, float]] = (),
) -> tuple[BatchedRow, ...]:
    """A row for each of `n_parallel` (in their order), each in a context of its own size.

    The model is loaded once, placed for the largest number that fits; smaller ones keep that
    placement, so that rows differ in nothing else. What does not fit or fails is a row with a
    failure. `options` gives all but the context's size; `advance` counts rows.
    Raises what opening the model raises where that is not for want of memory.
    """
    from localllm.placement import PlanOptions, open_model

    if not n_parallel or min(*n_parallel, n_prompt, n_gen) < 1:
        raise UsageProblem("batched throughput needs sequences, a prompt and tokens to generate")
    options = options or PlanOptions()
    rows: dict[int, BatchedRow] = {}

    def done(row: BatchedRow) -> None:
        rows[row.n_parallel] = row
        if advance is not None:
            advance(1)

    opened: Opened | None = None
    try:
        for n in sorted(set(n_parallel), reverse=True):
            sized = replace(options, n_ctx=n_prompt + n_gen, n_parallel=n)
            try:
                if opened is None:
                    opened = open_model(
                        path, sized, require_gpu=require_gpu, load=load, context=context,
                        adapters=adapters,
                    )  # fmt: skip
                    made = opened.context
                else:
                    made = _context(opened.context, sized)
                with made:
                    done(_measure(made, n, n_prompt, n_gen))
            except (LocalLLMError, MemoryError) as error:
                failure = failure_of(error)
                if failure is None or (opened is None and not _smaller_may_do(error)):
                    raise
                done(_failed(n, n_prompt, n_gen, failure))
    finally:
        if opened is not None:
            opened.close()
    return tuple(rows[n] for n in n_parallel)


def _smaller_may_do(error: BaseException) -> bool:
    """Whether a model that did not open may open with fewer sequences: memory is short, or
    llama.cpp takes no more than 256."""
    failure = failure_of(error)
    short = failure is not None and failure.kind in ("does_not_fit", "out_of_memory")
    return short or isinstance(error, UsageProblem)


def _context(first: Context, options: PlanOptions) -> Context:
    """A context for fewer sequences, otherwise as the first."""
    from localllm.engine.adapter import attach, attached
    from localllm.engine.context import Context

    assert options.n_ctx is not None
    n = options.n_parallel
    made = Context(first.model, replace(first.options, n_ctx=options.n_ctx * n, n_seq_max=n))
    if adapters := attached(first):
        attach(made, adapters)
    return made


def _measure(context: Context, n: int, n_prompt: int, n_gen: int) -> BatchedRow:
    from localllm.engine.batching import TokenBatch

    times = [0.0, 0.0]
    n_vocab = context.model.tokenizer.n_vocab
    n_warm = min(_WARM_UP, context.n_ctx_seq)

    def run() -> None:
        with TokenBatch(context.n_batch) as batch:
            _feed(context, batch, n_vocab, [(i, 0, False) for i in range(n_warm)])
            context.synchronize()
            context.clear()
            prompts = [(i, s, i == n_prompt - 1) for s in range(n) for i in range(n_prompt)]
            begun = time.perf_counter()
            _feed(context, batch, n_vocab, prompts)
            context.synchronize()
            prompt_done = time.perf_counter()
            for i in range(n_gen):
                _feed(context, batch, n_vocab, [(n_prompt + i, s, True) for s in range(n)])
                context.synchronize()
            times[:] = prompt_done - begun, time.perf_counter() - prompt_done

    context.arm()
    context.clear()
    context.interruptible(run)
    prompt_s, decode_s = times
    return BatchedRow(
        n_parallel=n,
        n_prompt=n_prompt,
        n_gen=n_gen,
        prompt_s=prompt_s,
        prompt_tps=n * n_prompt / prompt_s,
        decode_s=decode_s,
        decode_tps=n * n_gen / decode_s,
    )


def _feed(
    context: Context, batch: TokenBatch, n_vocab: int, slots: Sequence[tuple[int, int, bool]]
) -> None:
    """Decode random tokens at these (position, sequence, output), n_batch at a time."""
    for start in range(0, len(slots), batch.capacity):
        batch.clear()
        for position, sequence, output in slots[start : start + batch.capacity]:
            batch.add(random.randrange(n_vocab), position, sequence, output=output)
        context.decode(batch.native)


def _failed(n: int, n_prompt: int, n_gen: int, failure: Failure) -> BatchedRow:
    return BatchedRow(n, n_prompt, n_gen, 0.0, 0.0, 0.0, 0.0, failure)
