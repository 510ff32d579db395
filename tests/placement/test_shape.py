"""Shapes read from headers: numbers from the models' own config.json, and damaged headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import DamagedFile
from localllm.formats.gguf import parse_header, read_header
from localllm.placement import PlanOptions, model_shape, plan_for
from tests.placement.conftest import Written, cpu_only
from tests.support.gguf_writer import I32, U32, Arr, T, header_bytes


def shape_of(arch: str, **keys: Any) -> Any:
    metadata = {"general.architecture": arch}
    metadata |= {f"{arch}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return model_shape(parse_header(header_bytes(metadata)))


BASE: dict[str, Any] = {
    "block_count": U32(6),
    "embedding_length": U32(512),
    "attention__head_count": U32(8),
    "attention__head_count_kv": U32(2),
}


def windows(shape: Any) -> str:
    return "".join("w" if layer.window else "." for layer in shape.layers)


def test_heads_are_a_share_of_the_width_unless_the_file_says_otherwise():
    assert {layer.k_width for layer in shape_of("llama", **BASE).layers} == {2 * 64}
    wider = shape_of(
        "llama", **BASE, attention__key_length=U32(96), attention__value_length=U32(32)
    )
    assert {(layer.k_width, layer.v_width) for layer in wider.layers} == {(192, 64)}


def test_key_value_heads_may_differ_by_layer_and_are_all_heads_without_a_key():
    counts = Arr("u32", [0, 1, 2, 0, 4, 8])
    shape = shape_of("llama", **(BASE | {"attention__head_count_kv": counts}))
    assert [layer.k_width for layer in shape.layers] == [0, 64, 128, 0, 256, 512]
    without = {k: v for k, v in BASE.items() if k != "attention__head_count_kv"}
    assert {layer.k_width for layer in shape_of("llama", **without).layers} == {512}


@pytest.mark.parametrize(
    ("arch", "keys", "expected"),
    [
        ("gemma2", {}, "w.w.w."),  # 4096 tokens by default
        ("gemma3", {"attention__sliding_window": U32(512)}, "wwwww."),
        ("gemma3", {}, "......"),
        ("gemma3", {"attention__sliding_window": U32(0)}, "......"),
        ("gpt-oss", {"attention__sliding_window": U32(128)}, "w.w.w."),
        ("cohere2", {"attention__sliding_window": U32(4096)}, "www.ww"),
        ("cohere2moe", {"attention__sliding_window": U32(4096)}, ".www.w"),
        ("llama4", {}, "www.ww"),
        ("llama4", {"attention__sliding_window": U32(0)}, "......"),
        ("phi3", {"attention__sliding_window": U32(2047)}, "......"),
        ("llama", {"attention__sliding_window": U32(4096)}, "......"),
        ("exaone4", {"attention__sliding_window": U32(4096)}, "......"),  # windows from 64 layers
        (
            "gemma3",
            {
                "attention__sliding_window": U32(512),
                "attention__sliding_window_pattern": U32(3),
            },
            "ww.ww.",
        ),
        (
            "gemma4",
            {
                "attention__sliding_window": U32(512),
                "attention__sliding_window_pattern": Arr("bool", [1, 0, 1, 0, 0, 1]),
            },
            "w.w..w",
        ),
    ],
)
def test_windows_by_architecture(arch: str, keys: dict[str, Any], expected: str):
    assert windows(shape_of(arch, **BASE, **keys)) == expected


def test_layers_that_share_an_earlier_cache_hold_none():
    shape = shape_of(
        "gemma4", **BASE, attention__sliding_window=U32(512),
        attention__sliding_window_pattern=Arr("bool", [1, 1, 0, 1, 1, 0]),
        attention__shared_kv_layers=U32(2), attention__key_length_swa=U32(32),
        attention__value_length_swa=U32(32),
    )  # fmt: skip
    assert [layer.k_width for layer in shape.layers] == [64, 64, 128, 64, 0, 0]


def test_prediction_layers_hold_nothing():
    shape = shape_of("glm4moe", **BASE, nextn_predict_layers=U32(1))
    assert (shape.n_layer_all, shape.n_layer) == (6, 5)
    assert [layer.caches for layer in shape.layers] == [True] * 5 + [False]


def test_latent_attention_keeps_one_row():
    shape = shape_of(
        "deepseek2", **(BASE | {"attention__head_count_kv": U32(1)}),
        attention__key_length=U32(576), attention__value_length=U32(512),
        attention__key_length_mla=U32(192), attention__value_length_mla=U32(128),
    )  # fmt: skip
    assert {(layer.k_width, layer.v_width) for layer in shape.layers} == {(576, 0)}


def test_encoders_hold_no_cache():
    assert not any(layer.caches for layer in shape_of("bert", **BASE).layers)


def test_published_cache_sizes(written: Written):
    """Bytes a token by hand: layers * 2 * key-value heads * head size * 2 bytes."""
    from localllm.placement.kv import bytes_per_token

    for name, expected in {
        "llama3.1-8b": 32 * 2 * 8 * 128 * 2,  # 128 KiB
        "llama3.1-70b": 80 * 2 * 8 * 128 * 2,
        "qwen2-7b": 28 * 2 * 4 * 128 * 2,
        "deepseek-v3": 61 * 576 * 2,
        "gpt-oss-20b": 12 * 2 * 8 * 64 * 2,  # the windowed half grows no further
        "mamba-2.8b": 0,
    }.items():
        assert bytes_per_token(model_shape(read_header(written(name)))) == expected


# --- damaged ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [None, U32(0), U32(513), U32(4_000_000_000), I32(-1)])
def test_an_impossible_number_of_layers_is_damage(count: Any):
    keys = {k: v for k, v in BASE.items() if k != "block_count"}
    with pytest.raises(DamagedFile):
        shape_of("llama", **keys, **({} if count is None else {"block_count": count}))


def test_too_few_entries_for_the_layers_is_damage():
    with pytest.raises(DamagedFile, match="head_count_kv"):
        shape_of("llama", **(BASE | {"attention__head_count_kv": Arr("u32", [1, 2])}))


def test_no_architecture_is_damage(tmp_path: Path):
    with pytest.raises(DamagedFile):
        model_shape(parse_header(header_bytes({"general.name": "x"})))


ARCHS = ["llama", "gemma3", "gemma4", "deepseek2", "mamba2", "rwkv7", "qwen3next", "lfm2", "new"]
KEYS = [
    "block_count", "embedding_length", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "attention.sliding_window",
    "attention.sliding_window_pattern", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size",
    "ssm.group_count", "wkv.head_size", "shortconv.l_cache", "expert_count", "expert_used_count",
    "nextn_predict_layers", "full_attention_interval", "context_length", "vocab_size",
    "attention.shared_kv_layers", "attention.key_length_mla", "attention.value_length_mla",
]  # fmt: skip
VALUES = st.one_of(
    st.integers(0, 2**32 - 1), st.integers(0, 64), st.text(max_size=3), st.booleans(),
    st.lists(st.integers(0, 2**32 - 1), max_size=8),
)  # fmt: skip


@given(st.sampled_from(ARCHS), st.dictionaries(st.sampled_from(KEYS), VALUES), st.integers(1, 40))
def test_any_values_give_a_plan_or_a_damaged_file(arch: str, keys: dict[str, Any], n_layer: int):
    """Whatever a header claims: no other error, no endless work."""
    metadata: dict[str, Any] = {"general.architecture": arch, f"{arch}.block_count": U32(n_layer)}
    metadata |= {f"{arch}.{key}": value for key, value in keys.items()}
    tensors = [T("token_embd.weight", (32, 64)), T("blk.0.ffn_up.weight", (32, 32))]
    tensors += [T("blk.99999.x", (8,)), T("blk.1.ffn_up_exps.weight", (32,))]
    try:
        plan = plan_for(parse_header(header_bytes(metadata, tensors), 1 << 40), cpu_only())
    except DamagedFile:
        return
    assert plan.total_bytes > 0


def test_a_small_context_is_not_assumed_to_be_the_trained_one(written: Written):
    plan = plan_for(read_header(written("llama3.1-8b")), cpu_only(), PlanOptions())
    assert (plan.n_ctx, plan.n_ctx_train) == (8192, 131072)
    short = plan_for(read_header(written("gemma2-9b")), cpu_only(), PlanOptions())
    assert short.n_ctx == 8192 == short.n_ctx_train
