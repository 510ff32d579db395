"""Tiny models, written once a session, and a bare loop over the binding to compare with."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from localllm.engine import native
from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
from tests.support.tiny_models import (
    tiny_bert,
    tiny_chain,
    tiny_gemma3,
    tiny_llama,
    tiny_mamba,
)

# One thread: tiny matrices gain nothing from more, and on a loaded machine waiting for a
# second thread at every graph node takes far longer than the work.
ONE_THREAD = ContextOptions(n_ctx=512, n_batch=512, n_ubatch=128, n_threads=1)

MakeContext = Callable[..., Context]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine-models")


@pytest.fixture(scope="session")
def llama_path(folder: Path) -> Path:
    return tiny_llama(folder / "tiny llama ラマ.gguf")


@pytest.fixture(scope="session")
def llama(llama_path: Path) -> Iterator[Model]:
    with Model.load(llama_path) as model:
        yield model


@pytest.fixture(scope="session")
def spm(folder: Path) -> Iterator[Model]:
    with Model.load(tiny_llama(folder / "spm.gguf", vocab="spm")) as model:
        yield model


@pytest.fixture(scope="session")
def gemma(folder: Path) -> Iterator[Model]:
    """Sliding windows of 64 tokens."""
    with Model.load(tiny_gemma3(folder / "gemma3.gguf")) as model:
        yield model


@pytest.fixture(scope="session")
def mamba(folder: Path) -> Iterator[Model]:
    """Recurrent."""
    with Model.load(tiny_mamba(folder / "mamba.gguf")) as model:
        yield model


@pytest.fixture(scope="session")
def bert(folder: Path) -> Iterator[Model]:
    with Model.load(tiny_bert(folder / "bert.gguf")) as model:
        yield model


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Callable[[bytes], Model]]:
    """`chain(b"Hi!")` is a model that, after "H", says "i!" and ends. Bytes must be distinct."""
    models: list[Model] = []

    def make(said: bytes) -> Model:
        assert len(set(said)) == len(said)
        path = tiny_chain(tmp_path / f"{len(models)}.gguf", dict(pairwise(said)))
        models.append(Model.load(path))
        return models[-1]

    yield make
    for model in models:
        model.close()


@pytest.fixture
def make_context() -> Iterator[MakeContext]:
    """`make_context(model, n_ctx=1024, ...)`, closed after the test."""
    made: list[Context] = []

    def make(model: Model, **options: object) -> Context:
        made.append(Context(model, replace(ONE_THREAD, **options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for context in made:
        context.close()


@contextmanager
def ctrl_c(*delays_s: float) -> Iterator[None]:
    """SIGINT to the main thread after each delay. One that comes too late for the block, on a
    loaded machine, is swallowed here and does not end the test run."""
    main = threading.main_thread().ident
    assert main is not None
    timers = [threading.Timer(d, signal.pthread_kill, (main, signal.SIGINT)) for d in delays_s]
    for timer in timers:
        timer.start()
    try:
        yield
    finally:
        before = signal.signal(signal.SIGINT, lambda *_: None)
        for timer in timers:
            timer.join()
        signal.signal(signal.SIGINT, before)


def bare_greedy(model: Model, prompt: Sequence[int], n_tokens: int) -> list[int]:
    """Greedy tokens by nothing but the binding: decode all, take the largest logit, repeat."""
    llama = native.lib()
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads = 1024, 1024, 1024, 1
    params.n_threads_batch = 1
    context = llama.llama_init_from_model(model.handle, params)
    n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model.handle))
    tokens = list(prompt)
    feed = tokens
    try:
        for _ in range(n_tokens):
            array = (ctypes.c_int32 * len(feed))(*feed)
            assert llama.llama_decode(context, llama.llama_batch_get_one(array, len(feed))) == 0
            logits = llama.llama_get_logits_ith(context, -1)[:n_vocab]
            tokens.append(max(range(n_vocab), key=logits.__getitem__))
            feed = tokens[-1:]
    finally:
        llama.llama_free(context)
    return tokens[len(prompt) :]
