"""LoRA: what attaching changes, and that detaching changes it back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from localllm.engine.adapter import Attached, LoraAdapter, attach, attached
from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.errors import DamagedFile, EngineError, FileGone
from tests.engine.conftest import MakeContext
from tests.support.tiny_models import tiny_lora

PROMPT = [298, 104, 101, 300]


def logits(context: Context) -> np.ndarray:
    context.clear()
    context.prefill(PROMPT)
    return context.logits()


@pytest.fixture
def context(llama: Model, make_context: MakeContext) -> Context:
    return make_context(llama)


def test_attach_scale_and_detach(context: Context, tmp_path: Path) -> None:
    plain = logits(context)
    adapter = LoraAdapter(context.model, tiny_lora(tmp_path / "lora.gguf"))
    assert adapter.metadata()["adapter.lora.alpha"].startswith("8")
    attach(context, [adapter])
    full = logits(context)
    attach(context, [Attached(adapter, 0.5)])
    half = logits(context)
    attach(context, [Attached(adapter, 0.0)])
    off = logits(context)
    attach(context, [])
    assert attached(context) == ()
    assert (logits(context) == plain).all()
    np.testing.assert_allclose(off, plain, atol=1e-5)
    assert np.abs(full - plain).max() > np.abs(half - plain).max() > 0.01


def test_two_at_once_equal_their_sum(context: Context, tmp_path: Path) -> None:
    """An adapter twice at half its scale is the adapter once: the deltas add up."""
    adapter = LoraAdapter(context.model, tiny_lora(tmp_path / "a.gguf"))
    twin = LoraAdapter(context.model, tiny_lora(tmp_path / "b.gguf"))
    other = LoraAdapter(context.model, tiny_lora(tmp_path / "c.gguf", seed=9))
    attach(context, [adapter])
    once = logits(context)
    attach(context, [Attached(adapter, 0.5), Attached(twin, 0.5)])
    np.testing.assert_allclose(logits(context), once, atol=2e-2)
    attach(context, [adapter, other])
    assert np.abs(logits(context) - once).max() > 0.01


def test_attaching_forgets_what_other_weights_computed(context: Context, tmp_path: Path) -> None:
    logits(context)
    attach(context, [LoraAdapter(context.model, tiny_lora(tmp_path / "lora.gguf"))])
    assert context.length() == 0


def test_another_context_is_not_touched(
    llama: Model, make_context: MakeContext, tmp_path: Path
) -> None:
    one, two = make_context(llama), make_context(llama)
    plain = logits(two)
    attach(one, [LoraAdapter(llama, tiny_lora(tmp_path / "lora.gguf"))])
    assert (logits(two) == plain).all()
    assert (logits(one) != plain).any()


def test_what_cannot_be_loaded(llama: Model, gemma: Model, tmp_path: Path) -> None:
    with pytest.raises(FileGone):
        LoraAdapter(llama, tmp_path / "nope.gguf")
    wide = tiny_lora(tmp_path / "wide.gguf", n_embd=512)
    with pytest.raises(EngineError, match=r"adapter wide\.gguf: .*incorrect shape"):
        LoraAdapter(llama, wide)
    with pytest.raises(EngineError, match="arch mismatch"):
        LoraAdapter(gemma, tiny_lora(tmp_path / "lora.gguf"))
    deep = tiny_lora(tmp_path / "deep.gguf", n_layer=5)
    with pytest.raises(EngineError, match="does not exist in base model"):
        LoraAdapter(llama, deep)
    model_file = llama.path
    with pytest.raises(EngineError, match=r"expect general\.type to be 'adapter'"):
        LoraAdapter(llama, model_file)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(wide.read_bytes()[:700])
    with pytest.raises((DamagedFile, EngineError)) as caught:
        LoraAdapter(llama, cut)
    assert "\n" not in caught.value.message


def test_an_adapter_of_another_model(
    llama: Model, llama_path: Path, make_context: MakeContext, tmp_path: Path
) -> None:
    with Model.load(llama_path) as other:
        adapter = LoraAdapter(other, tiny_lora(tmp_path / "lora.gguf"))
        with pytest.raises(EngineError, match="loaded for another model"):
            attach(make_context(llama), [adapter])


def test_an_adapter_of_an_embedding_that_is_the_output_too_is_refused(
    gemma: Model, tmp_path: Path
) -> None:
    """llama.cpp would end the process at the first token."""
    import gguf

    n_vocab, n_embd = gemma.tokenizer.n_vocab, gemma.info.n_embd
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "gemma3")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    writer.add_tensor("token_embd.weight.lora_a", np.ones((n_vocab, 4), np.float32))
    writer.add_tensor("token_embd.weight.lora_b", np.ones((n_embd, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(EngineError, match=r"also .* output layer") as refused:
        LoraAdapter(gemma, tmp_path / "a.gguf")
    assert "merge" in (refused.value.hint or "")
