"""Schedulers on tiny models, closed after the test."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence

import pytest

from localllm.engine import native
from localllm.engine.model import Model
from localllm.engine.scheduler import Scheduler, SchedulerOptions
from tests.engine.conftest import MakeContext

MakeScheduler = Callable[..., Scheduler]


@pytest.fixture
def make_scheduler(make_context: MakeContext) -> Iterator[MakeScheduler]:
    """`make_scheduler(model, n_ctx=1024, n_seq_max=4, options=SchedulerOptions())`."""
    made: list[Scheduler] = []

    def make(model: Model, options: SchedulerOptions | None = None, **sizes: object) -> Scheduler:
        context = make_context(model, **{"kv_unified": True, "n_seq_max": 4} | sizes)
        made.append(Scheduler(context, options))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.close()


def words(n: int, start: int = 0) -> list[int]:
    """A prompt of `n` tokens that any of the tiny models has."""
    return [298, *(32 + (start + i * 7) % 90 for i in range(n - 1))]


def assert_greedy(model: Model, prompt: Sequence[int], answer: Sequence[int]) -> None:
    """Every token of `answer` has the largest logit at its place, or as good as (batches of
    other shapes add in another order). By nothing but the binding, all in one batch."""
    llama = native.lib()
    tokens = [*prompt, *answer]
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = max(len(tokens), 64)
    params.n_threads = params.n_threads_batch = 1
    context = llama.llama_init_from_model(model.handle, params)
    n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model.handle))
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    try:
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        batch.n_tokens = len(tokens)
        assert llama.llama_decode(context, batch) == 0
        for i, token in enumerate(answer):
            row = llama.llama_get_logits_ith(context, len(prompt) - 1 + i)
            values = ctypes.cast(row, ctypes.POINTER(ctypes.c_float * n_vocab)).contents
            assert values[token] >= max(values) - 0.03, f"token {i} of {list(answer)}"
    finally:
        llama.llama_batch_free(batch)
        llama.llama_free(context)
