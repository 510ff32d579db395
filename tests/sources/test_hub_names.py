"""What model files are called: labels, shards, and names no system takes amiss."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.sources.names import (
    plain_quant,
    quant_of,
    safe_component,
    safe_path,
    shard_name,
    split_of,
)


@pytest.mark.parametrize(
    ("stem", "label", "base"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M", "Q4_K_M", "Llama-3.2-1B-Instruct"),
        ("llama-3.2-1b-instruct-q4_k_m", "Q4_K_M", "llama-3.2-1b-instruct"),
        ("Qwen3-8B-UD-Q4_K_XL", "UD-Q4_K_XL", "Qwen3-8B"),
        ("gemma-3-4b-it.i1-IQ2_XS", "i1-IQ2_XS", "gemma-3-4b-it"),
        ("gemma-3-4b-it.i1-Q4_K_M", "i1-Q4_K_M", "gemma-3-4b-it"),
        ("Phi-3.5-mini-instruct-Q4_0_4_4", "Q4_0_4_4", "Phi-3.5-mini-instruct"),
        ("model-BF16", "BF16", "model"),
        ("model.fp16", "F16", "model"),
        ("model-f32", "F32", "model"),
        ("gpt-oss-20b-mxfp4", "MXFP4", "gpt-oss-20b"),
        ("Qwen3-30B-A3B-MXFP4_MOE", "MXFP4_MOE", "Qwen3-30B-A3B"),
        ("bitnet-TQ1_0", "TQ1_0", "bitnet"),
        ("falcon3-1b-tq2_0", "TQ2_0", "falcon3-1b"),
        ("DeepSeek-R1-UD-IQ1_S", "UD-IQ1_S", "DeepSeek-R1"),
        ("model-IQ3_XXS", "IQ3_XXS", "model"),
        ("model-IQ4_NL", "IQ4_NL", "model"),
        ("model-Q3_K_XL", "Q3_K_XL", "model"),
        ("model-Q6_K_L", "Q6_K_L", "model"),
        ("model-Q8_0", "Q8_0", "model"),
        ("model-Q2_K", "Q2_K", "model"),
        ("model_q5_1", "Q5_1", "model"),
        ("Q4_K_M", "Q4_K_M", ""),
        ("model-f16-Q6_K", "Q6_K", "model-f16"),
        ("model-Q4_K_M-imat", "Q4_K_M", "model-imat"),
        ("model-IQ4_KS_R4", "IQ4_KS_R4", "model"),
        ("Qwen2.5-7B-Instruct", None, "Qwen2.5-7B-Instruct"),
        ("model", None, "model"),
        ("llama-2-7b-chat.ggmlv3", None, "llama-2-7b-chat.ggmlv3"),
        ("RF16-model", None, "RF16-model"),
    ],
)
def test_labels_in_file_names(stem: str, label: str | None, base: str) -> None:
    assert quant_of(stem) == (label, base)


def test_labels_compared_without_their_makers() -> None:
    assert plain_quant("UD-q4_k_xl") == plain_quant("Q4_K_XL") == "Q4_K_XL"
    assert plain_quant("i1-Q4_K_M") == "Q4_K_M"
    assert plain_quant("fp16") == "F16"


@given(st.text(alphabet="abQ4_K.-", max_size=12), st.integers(1, 99), st.integers(1, 99))
def test_shard_names_are_read_back(stem: str, index: int, count: int) -> None:
    split = split_of(shard_name(stem, index, count))
    assert (split is None) == (index > count)
    if split is not None:
        assert (split.stem, split.index, split.count) == (stem, index, count)


@given(st.text(max_size=300))
def test_safe_components_are_safe_and_stay_what_they_are(name: str) -> None:
    safe = safe_component(name)
    assert safe == safe_component(safe)
    assert safe not in ("", ".", "..")
    assert not re.search(r'[\x00-\x1f/\\:*?"<>|]', safe)
    assert not safe.endswith((".", " "))
    assert len(safe.encode(errors="replace")) <= 210


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("model-Q4_K_M.gguf", "model-Q4_K_M.gguf"),
        ("../../etc/passwd", "_.._.._etc_passwd"),
        ("..", "_"),
        ("CON.gguf", "_CON.gguf"),
        ("nul", "_nul"),
        ("COM1.tar.gguf", "_COM1.tar.gguf"),
        ("console.gguf", "console.gguf"),
        ("a:b?.gguf", "a_b_.gguf"),
        ("トレーニング済み.gguf", "トレーニング済み.gguf"),
        (" . ", "_"),
        ("x" * 400 + ".gguf", "x" * 195 + ".gguf"),
    ],
)
def test_names_made_safe(name: str, safe: str) -> None:
    assert safe_component(name) == safe


def test_paths_that_may_not_be_taken_as_they_are() -> None:
    assert safe_path("Q4_K_M/model-Q4_K_M.gguf")
    for bad in ("../x.gguf", "/x.gguf", "a//b", "a/../b", "C:/x", "a\\b", "a/nul", "a/b.", ""):
        assert not safe_path(bad), bad
