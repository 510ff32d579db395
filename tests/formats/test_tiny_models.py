"""The tests' own models, against the real llama.cpp: they load, decode, and are as read."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from localllm.formats import read_model
from tests.support.tiny_models import (
    FILE_TYPES,
    bpe_vocab,
    llama_model,
    split,
    spm_vocab,
    tiny_bert,
    tiny_chain,
    tiny_gemma3,
    tiny_llama,
    tiny_lora,
    tiny_mamba,
    tiny_qwen2,
    tiny_qwen3moe,
)


def _load(path: Path, **options: Any) -> Any:
    import llama_cpp

    return llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False, **options)


def _greedy(model: Any, prompt: str = "hello world", max_tokens: int = 12) -> str:
    done = model.create_completion(prompt, max_tokens=max_tokens, temperature=0)
    return str(done["choices"][0]["text"])


@pytest.mark.parametrize(
    "make", [tiny_llama, tiny_qwen2, tiny_qwen3moe, tiny_gemma3, tiny_mamba, tiny_bert]
)
def test_llama_cpp_counts_what_the_reader_counts(make: Any, tmp_path: Path) -> None:
    import llama_cpp

    path = make(tmp_path / "m.gguf")
    ours = read_model(path)
    loaded = _load(path)  # frees the model when it goes
    model = loaded.model
    buffer = ctypes.create_string_buffer(200)
    llama_cpp.llama_model_desc(model, buffer, len(buffer))
    assert llama_cpp.llama_model_n_params(model) == ours.n_params
    assert llama_cpp.llama_model_size(model) == ours.weights_bytes
    assert llama_cpp.llama_model_n_layer(model) == ours.arch_u32("block_count")
    assert llama_cpp.llama_model_n_embd(model) == ours.arch_u32("embedding_length")
    assert llama_cpp.llama_model_n_ctx_train(model) == ours.arch_u32("context_length")
    assert ours.architecture is not None and buffer.value.decode().startswith(ours.architecture)
    assert ours.file_type is not None and buffer.value.decode().endswith(ours.file_type.label)


@pytest.mark.parametrize("dtype", FILE_TYPES)
def test_each_weight_type_runs(dtype: str, tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf", dtype=dtype, n_layer=1)
    assert next(iter(read_model(path).types)) == dtype
    assert _greedy(_load(path))


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2, tiny_qwen3moe, tiny_gemma3, tiny_mamba])
def test_text_comes_out_and_is_no_single_loop(make: Any, tmp_path: Path) -> None:
    text = _greedy(_load(make(tmp_path / "m.gguf")))
    assert len(set(text)) > 2


@pytest.mark.parametrize("vocab", ["bpe", "spm"])
def test_any_text_survives_the_vocabulary(vocab: str, tmp_path: Path) -> None:
    model = _load(tiny_llama(tmp_path / "m.gguf", vocab=vocab, n_layer=1))
    text = "hello world, 日本語 😀\n\ttabs \x01".encode()
    ids = model.tokenize(text, add_bos=False)
    assert model.detokenize(ids).lstrip() == text
    words = bpe_vocab() if vocab == "bpe" else spm_vocab()
    assert words.id("hello" if vocab == "bpe" else "▁hello") in ids  # merges work
    assert model.tokenize(b"<|im_end|>", add_bos=False, special=True) == [words.eot]
    assert model.token_eos() == words.eos and model.token_bos() == words.bos


def test_experts_shards_and_adapters_reach_the_output(tmp_path: Path) -> None:
    whole = tiny_llama(tmp_path / "whole.gguf")
    shards = split(llama_model, tmp_path, "big", n_shards=3)
    assert _greedy(_load(shards[0])) == _greedy(_load(whole))
    lora = tiny_lora(tmp_path / "lora.gguf")
    assert _greedy(_load(whole, lora_path=str(lora))) != _greedy(_load(whole))


def test_an_embedding_model_tells_texts_apart(tmp_path: Path) -> None:
    import numpy as np

    model = _load(tiny_bert(tmp_path / "b.gguf"), embedding=True)
    a, b, c = (np.array(model.embed(text)) for text in ("hello world", "hello world", "zzz q"))
    assert a.shape == (128,)
    assert np.allclose(a, b) and not np.allclose(a, c, atol=0.1)


def test_a_chain_says_what_it_is_told(tmp_path: Path) -> None:
    """a -> b -> é (two bytes) -> stop."""
    e_acute = "é".encode()
    chain = {ord("a"): ord("b"), ord("b"): e_acute[0], e_acute[0]: e_acute[1]}
    model = _load(tiny_chain(tmp_path / "c.gguf", chain))
    done = model.create_completion("a", max_tokens=50, temperature=1.0)
    assert done["choices"][0]["text"] == "bé"
    assert done["choices"][0]["finish_reason"] == "stop"
