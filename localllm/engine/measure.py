"""Timed runs by llama-bench's method, so that the numbers can stand beside its own.

Prompt processing (pp): random tokens in chunks of n_batch, one wait at the end. Token
generation (tg): one token at a time, a wait after each. No tokenizing, no sampling; random
ids, BOS first if the vocabulary adds it; memory cleared before each repetition; a depth is
filled untimed. (tools/llama-bench/llama-bench.cpp: test_prompt, test_gen, main.)
"""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Callable
from typing import Any

from localllm.engine import native
from localllm.engine.context import Context
from localllm.engine.interrupts import attended
from localllm.errors import UsageProblem

Advance = Callable[[int], None]


def time_prompt(
    context: Context,
    n_tokens: int,
    repetitions: int = 5,
    *,
    depth: int = 0,
    warm_up: bool = True,
    advance: Advance | None = None,
) -> tuple[int, ...]:
    """Nanoseconds of each repetition of processing `n_tokens`, after `depth` others.

    The warm-up is one whole untimed prompt. `advance` counts repetitions, warm-up included.
    Ctrl-C ends it within a graph node.
    """
    runner = _Runner(context, n_tokens, depth)
    return runner.measure(runner.prompt, n_tokens, n_tokens, repetitions, warm_up, advance)


def time_generation(
    context: Context,
    n_tokens: int,
    repetitions: int = 5,
    *,
    depth: int = 0,
    warm_up: bool = True,
    advance: Advance | None = None,
) -> tuple[int, ...]:
    """Nanoseconds of each repetition of generating `n_tokens` one by one; warm-up is one token."""
    runner = _Runner(context, n_tokens, depth)
    return runner.measure(runner.generate, n_tokens, 1, repetitions, warm_up, advance)


class _Runner:
    def __init__(self, context: Context, n_tokens: int, depth: int) -> None:
        if n_tokens < 1 or depth < 0:
            raise UsageProblem("a measurement needs at least one token and no negative depth")
        if n_tokens + depth > context.n_ctx_seq:
            raise UsageProblem(
                f"{n_tokens} tokens at depth {depth} do not fit the context of {context.n_ctx_seq}"
            )
        self.context, self.depth = context, depth
        self.llama = native.lib()
        tokenizer = context.model.tokenizer
        self.n_vocab = tokenizer.n_vocab
        self.first = tokenizer.bos if tokenizer.adds_bos else None

    def measure(
        self,
        run: Callable[[Any], None],
        n_tokens: int,
        n_warm: int,
        repetitions: int,
        warm_up: bool,
        advance: Advance | None,
    ) -> tuple[int, ...]:
        samples: list[int] = []

        def timed() -> None:
            if warm_up:
                self.context.clear()
                run(self.tokens(n_warm))
                _tell(advance)
            for _ in range(repetitions):
                self.context.clear()
                if self.depth:
                    self.prompt(self.tokens(self.depth))
                tokens = self.tokens(n_tokens)
                begun = time.perf_counter_ns()
                run(tokens)
                samples.append(time.perf_counter_ns() - begun)
                _tell(advance)

        self.context.arm()
        try:
            attended(timed, self.context.abort)
        finally:
            self.context.arm()
            self.context.clear()
        return tuple(samples)

    def tokens(self, n_tokens: int) -> Any:
        """Random ids as a C array, made before the clock runs: in C this costs nothing."""
        ids = random.choices(range(self.n_vocab), k=n_tokens)
        if self.first is not None:
            ids[0] = self.first
        return (ctypes.c_int32 * n_tokens)(*ids)

    def prompt(self, tokens: Any) -> None:
        self.context.append(tokens)
        self.context.synchronize()

    def generate(self, tokens: Any) -> None:
        single = (ctypes.c_int32 * 1)()
        batch = self.llama.llama_batch_get_one(single, 1)
        for token in tokens:
            single[0] = token
            self.context.decode(batch)
            self.context.synchronize()


def _tell(advance: Advance | None) -> None:
    if advance is not None:
        advance(1)
