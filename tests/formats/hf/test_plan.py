"""Names, layouts and configs of GGUFs, without torch."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from localllm.formats import read_model
from localllm.formats.hf import (
    FAMILIES,
    Layout,
    Sizes,
    family_of_model_type,
    plan_gguf,
    sizes_of_config,
    slots_of,
)
from tests.support.gguf_writer import F32, U32, Arr
from tests.support.tiny_models import llama_model, tiny_gemma3

SIZES = Sizes(2, 64, 96, 4, 2, 16, 16, 320, 128)


def nothing(name: str) -> np.ndarray:
    raise AssertionError(f"{name} was read")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.arch)
def test_names_are_those_of_llama_cpps_tensor_map(family) -> None:  # type: ignore[no-untyped-def]
    """The map says which GGUF name the converter gives each parameter of transformers."""
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.arch)
    names = gguf.get_tensor_name_map(arch, SIZES.n_layer)
    slots = slots_of(family, SIZES, lambda *_: True, tied=bool(family.tied))
    assert len({slot.hf for slot in slots}) == len({slot.gguf for slot in slots}) == len(slots)
    for slot in slots:
        assert names.get_name(slot.hf, try_suffixes=(".weight", ".bias")) == slot.gguf


def test_rows_are_paired_as_the_converter_pairs_them() -> None:
    heads, rows = 4, 32
    weight = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    layout = Layout(heads)
    # LlamaModel.permute
    want = weight.reshape(heads, 2, rows // heads // 2, 3).swapaxes(1, 2).reshape(weight.shape)
    np.testing.assert_array_equal(layout.to_gguf(weight), want)
    np.testing.assert_array_equal(layout.to_hf(want), weight)
    order, inverse = layout.row_order(rows), layout.inverse_order(rows)
    assert order is not None
    assert inverse is not None
    np.testing.assert_array_equal(order[inverse], np.arange(rows))
    assert Layout().row_order(rows) is None
    assert Layout(shift=1.0).to_hf(np.ones(2, np.float32)).tolist() == [0.0, 0.0]


def test_the_config_of_a_llama(tmp_path: Path) -> None:
    path = llama_model(metadata={"llama.rope.freq_base": F32(5e5)}).write(tmp_path / "l.gguf")
    plan = plan_gguf(read_model(path), nothing)
    assert (plan.class_name, plan.model_type) == ("LlamaForCausalLM", "llama")
    config = plan.config
    assert (config["hidden_size"], config["intermediate_size"]) == (256, 512)
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    assert (config["head_dim"], config["num_hidden_layers"]) == (64, 2)
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 5e5}
    assert config["rms_norm_eps"] == pytest.approx(1e-5)
    assert config["tie_word_embeddings"] is False
    assert (config["attention_bias"], config["mlp_bias"]) == (False, False)
    metadata = read_model(path).metadata
    assert config["bos_token_id"] == metadata["tokenizer.ggml.bos_token_id"]
    assert config["eos_token_id"] == metadata["tokenizer.ggml.eos_token_id"]


def test_gemmas_windows_and_ropes(tmp_path: Path) -> None:
    """Five of six layers see a window, whose rope has a base of its own; told or not."""
    plan = plan_gguf(read_model(tiny_gemma3(tmp_path / "g.gguf")), nothing)
    full, sliding = "full_attention", "sliding_attention"
    assert plan.config["layer_types"] == [sliding] * 5 + [full, sliding]
    assert plan.config["sliding_window"] == 64
    rope = plan.config["rope_parameters"]
    assert rope[full]["rope_theta"] == 1e6
    assert rope[sliding] == {"rope_type": "default", "rope_theta": 10000.0}
    assert plan.config["tie_word_embeddings"] is True
    assert {slot.hf for slot in plan.slots if slot.layout.shift} == {
        slot.hf for slot in plan.slots if slot.hf.endswith("norm.weight")
    }


@pytest.mark.parametrize(("told", "want"), [(U32(2), "sf"), (Arr("bool", [True, True]), "ss")])
def test_a_told_pattern_of_windows(tmp_path: Path, told: object, want: str) -> None:
    from tests.support.gguf_writer import U32 as NUMBER

    keys = {"olmo2.attention.sliding_window": NUMBER(16),
            "olmo2.attention.sliding_window_pattern": told}  # fmt: skip
    model = llama_model("olmo2", metadata=keys)
    keep = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    model.tensors = [
        one for one in model.tensors if not one[0].name.startswith("blk.") or
        one[0].name.split(".")[2] in keep
    ]  # fmt: skip
    for i in range(2):
        for name, n in (("post_attention_norm", 256), ("post_ffw_norm", 256),
                        ("attn_q_norm", 256), ("attn_k_norm", 128)):  # fmt: skip
            model.norm(f"blk.{i}.{name}.weight", n)
    plan = plan_gguf(read_model(model.write(tmp_path / "o.gguf")), nothing)
    assert (plan.model_type, plan.class_name) == ("olmo3", "Olmo3ForCausalLM")
    assert "".join(one[0] for one in plan.config["layer_types"]) == want


def test_a_vocabulary_larger_than_the_embedding_has_no_padding_row(tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.padding_token_id": U32(99_999)}
    plan = plan_gguf(read_model(llama_model(metadata=keys).write(tmp_path / "p.gguf")), nothing)
    assert plan.config["pad_token_id"] is None


def test_sizes_of_a_config() -> None:
    config = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 200,
              "num_attention_heads": 6, "num_key_value_heads": None, "vocab_size": 50,
              "max_position_embeddings": 64,
              "rope_parameters": {"partial_rotary_factor": 0.5}}  # fmt: skip
    sizes = sizes_of_config(config)
    assert (sizes.head_dim, sizes.n_head_kv, sizes.n_rot) == (16, 6, 8)
    assert family_of_model_type("mistral", "m").arch == "llama"
