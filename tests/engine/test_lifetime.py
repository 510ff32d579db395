"""Native objects: freed once and in order, never used after."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from localllm.engine.adapter import LoraAdapter, attach
from localllm.engine.context import Context
from localllm.engine.handle import NativeObject
from localllm.engine.model import Model
from localllm.engine.sampling import Sampler
from localllm.engine.session import Session
from localllm.errors import EngineError
from localllm.generation import Sampling
from tests.engine.conftest import ONE_THREAD
from tests.support.tiny_models import tiny_lora


class Recorder(NativeObject):
    kind = "thing"


def test_freed_exactly_once_however_it_ends() -> None:
    freed: list[int] = []
    thing = Recorder(7, freed.append)
    thing.close()
    thing.close()
    del thing
    gc.collect()
    assert freed == [7]
    forgotten = Recorder(8, freed.append)
    del forgotten
    gc.collect()
    assert freed == [7, 8]


def test_use_after_close_is_an_error() -> None:
    thing = Recorder(7, lambda _: None)
    with thing:
        assert thing.handle == 7
    assert thing.closed
    with pytest.raises(EngineError, match="this thing is closed"):
        _ = thing.handle


def test_dependents_close_first() -> None:
    order: list[int] = []
    owner, user = Recorder(1, order.append), Recorder(2, order.append)
    owner.depend(user)
    owner.close()
    assert order == [2, 1]
    assert user.closed


def test_closing_a_model_closes_its_contexts_and_adapters(llama_path: Path, tmp_path: Path) -> None:
    model = Model.load(llama_path)
    context = Context(model, ONE_THREAD)
    adapter = LoraAdapter(model, tiny_lora(tmp_path / "lora.gguf"))
    attach(context, [adapter])
    tokenizer = model.tokenizer
    model.close()
    assert context.closed
    assert adapter.closed
    for use in (
        lambda: tokenizer.encode("x"),
        lambda: context.prefill([1]),
        lambda: Context(model, ONE_THREAD),
        lambda: model.metadata(),
        lambda: Session(context),
    ):
        with pytest.raises(EngineError, match="is closed"):
            use()
    context.close()
    adapter.close()
    model.close()


def test_a_context_keeps_its_model_alive(llama_path: Path) -> None:
    context = Context(Model.load(llama_path), ONE_THREAD)
    gc.collect()
    tokens = context.model.tokenizer.encode("hello")
    context.prefill(tokens)
    assert context.length() == len(tokens)
    watch = weakref.ref(context.model)
    context.close()
    del context
    gc.collect()
    assert watch() is None


def test_closing_an_adapter_detaches_it(llama_path: Path, tmp_path: Path) -> None:
    with Model.load(llama_path) as model, Context(model, ONE_THREAD) as context:
        tokens = model.tokenizer.encode("hello world")
        context.prefill(tokens)
        before = context.logits()
        adapter = LoraAdapter(model, tiny_lora(tmp_path / "lora.gguf"))
        attach(context, [adapter])
        adapter.close()
        context.prefill(tokens)
        assert (context.logits() == before).all()


def test_a_closed_sampler(llama: Model, tmp_path: Path) -> None:
    with Context(llama, ONE_THREAD) as context:
        context.prefill(llama.tokenizer.encode("x"))
        sampler = Sampler(llama.tokenizer, Sampling(temperature=0))
        sampler.sample(context)
        sampler.close()
        with pytest.raises(EngineError, match="sampler is closed"):
            sampler.sample(context)


def test_many_cycles_leak_no_memory(llama_path: Path) -> None:
    resource = pytest.importorskip("resource")

    def cycle() -> None:
        with Model.load(llama_path) as model, Context(model, ONE_THREAD) as context:
            list(Session(context).stream(model.tokenizer.encode("a"), Sampling(max_tokens=2)))

    for _ in range(5):
        cycle()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(30):
        cycle()
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 30 * 300  # one leaked context alone is about 1 MiB
