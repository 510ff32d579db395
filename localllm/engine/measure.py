"""Timed runs by llama-bench's method, so that the numbers can stand beside its own.

Prompt processing (pp): random tokens in chunks of n_batch, one wait at the end. Token
generation (tg): one token at a time, a wait after each. Both in turn (pg): in one timed region.
No tokenizing, no sampling; random ids, BOS first if the vocabulary adds it; memory cleared
before each repetition; a depth is filled untimed, and once filled its state is restored.
(tools/llama-bench/llama-bench.cpp: test_prompt, test_gen, main.)
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


class DepthState:
    """What a context holds of `depth` tokens, kept in main memory for the next repetitions and
    the next tests at that depth. One a model; as large as the cache's filled part."""

    def __init__(self) -> None:
        self.depth = 0
        self._bytes: ctypes.Array[ctypes.c_uint8] | None = None

    def save(self, context: Context, depth: int) -> None:
        """Keep the state of `context`; without memory for it, keep none."""
        llama = native.lib()
        self.depth, self._bytes = 0, None
        size = int(llama.llama_state_seq_get_size(context.handle, 0))
        try:
            self._bytes = (ctypes.c_uint8 * size)()
        except MemoryError:
            return
        llama.llama_state_seq_get_data(context.handle, self._bytes, size, 0)
        self.depth = depth

    def restore(self, context: Context, depth: int) -> bool:
        """Put the state into `context` if it is of `depth` tokens and of the same form."""
        if self._bytes is None or self.depth != depth:
            return False
        restore = native.lib().llama_state_seq_set_data
        if restore(context.handle, self._bytes, len(self._bytes), 0):
            return True
        context.clear()  # another cache type: part of it may have been read
        return False


class BenchRunner:
    """One test in one context: `n_prompt` tokens processed, then `n_gen` generated.

    `state` is handed on from test to test of one model. Raises UsageProblem for what the
    context has no room for.
    """

    def __init__(
        self,
        context: Context,
        n_prompt: int,
        n_gen: int,
        depth: int = 0,
        state: DepthState | None = None,
    ) -> None:
        if min(n_prompt, n_gen, depth) < 0 or not n_prompt + n_gen:
            raise UsageProblem("a measurement needs at least one token and no negative depth")
        if n_prompt + n_gen + depth > context.n_ctx_seq:
            raise UsageProblem(
                f"{n_prompt + n_gen} tokens at depth {depth} do not fit the context of "
                f"{context.n_ctx_seq}"
            )
        self.context, self.depth = context, depth
        self.n_prompt, self.n_gen = n_prompt, n_gen
        self.state = DepthState() if state is None else state
        self.llama = native.lib()
        tokenizer = context.model.tokenizer
        self.n_vocab = tokenizer.n_vocab
        self.first = tokenizer.bos if tokenizer.adds_bos else None
        self._next: tuple[Any, Any] | None = None

    def warm_up(self) -> None:
        """The whole prompt and one generated token, untimed, as llama-bench warms up."""
        prompt, gen = self._tokens(self.n_prompt), self._tokens(min(1, self.n_gen))

        def run() -> None:
            self._prompt(prompt)
            self._generate(gen)

        self.context.clear()
        self._attended(run)
        self.context.clear()

    def prepare(self) -> None:
        """Before each `run`, and not timed: an empty memory, or one filled to the depth."""

        def fill() -> None:
            if self.depth and not self.state.restore(self.context, self.depth):
                self._prompt(self._tokens(self.depth))
                self.state.save(self.context, self.depth)

        self.context.clear()
        self._attended(fill)
        self._next = (self._tokens(self.n_prompt), self._tokens(self.n_gen))

    def run(self) -> int:
        """Nanoseconds of one repetition. Ctrl-C ends it within a graph node."""
        assert self._next is not None, "prepare() comes before each run()"
        (prompt, gen), self._next = self._next, None
        took = 0

        def timed() -> None:
            nonlocal took
            begun = time.perf_counter_ns()
            self._prompt(prompt)
            self._generate(gen)
            took = time.perf_counter_ns() - begun

        self._attended(timed)
        self.context.clear()
        return took

    def _attended(self, run: Callable[[], None]) -> None:
        self.context.arm()
        try:
            attended(run, self.context.abort)
        except BaseException:
            self.context.arm()
            self.context.clear()
            raise

    def _tokens(self, n_tokens: int) -> Any:
        """Random ids as a C array, made before the clock runs: in C this costs nothing."""
        ids = random.choices(range(self.n_vocab), k=n_tokens)
        if ids and self.first is not None:
            ids[0] = self.first
        return (ctypes.c_int32 * n_tokens)(*ids)

    def _prompt(self, tokens: Any) -> None:
        if len(tokens):
            self.context.append(tokens)
            self.context.synchronize()

    def _generate(self, tokens: Any) -> None:
        single = (ctypes.c_int32 * 1)()
        batch = self.llama.llama_batch_get_one(single, 1)
        for token in tokens:
            single[0] = token
            self.context.decode(batch)
            self.context.synchronize()


def time_test(
    context: Context,
    n_prompt: int,
    n_gen: int,
    repetitions: int = 5,
    *,
    depth: int = 0,
    warm_up: bool = True,
    state: DepthState | None = None,
    advance: Advance | None = None,
) -> tuple[int, ...]:
    """Nanoseconds of each repetition of a test; `advance` counts them, warm-up included."""
    runner = BenchRunner(context, n_prompt, n_gen, depth, state)
    if warm_up:
        runner.warm_up()
        _tell(advance)
    samples = []
    for _ in range(repetitions):
        runner.prepare()
        samples.append(runner.run())
        _tell(advance)
    return tuple(samples)


def time_prompt(
    context: Context,
    n_tokens: int,
    repetitions: int = 5,
    *,
    depth: int = 0,
    warm_up: bool = True,
    advance: Advance | None = None,
) -> tuple[int, ...]:
    """`time_test` of processing `n_tokens`, after `depth` others."""
    return time_test(
        context, n_tokens, 0, repetitions, depth=depth, warm_up=warm_up, advance=advance
    )


def time_generation(
    context: Context,
    n_tokens: int,
    repetitions: int = 5,
    *,
    depth: int = 0,
    warm_up: bool = True,
    advance: Advance | None = None,
) -> tuple[int, ...]:
    """`time_test` of generating `n_tokens` one by one."""
    return time_test(
        context, 0, n_tokens, repetitions, depth=depth, warm_up=warm_up, advance=advance
    )


def _tell(advance: Advance | None) -> None:
    if advance is not None:
        advance(1)
