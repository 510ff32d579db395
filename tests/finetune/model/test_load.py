"""GGUF and safetensors to torch: the logits are llama.cpp's, of every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
pytest.importorskip("transformers", reason="the extra `finetune` is not installed")

from localllm.finetune.model import LoadedModel, families, load_causal  # noqa: E402
from localllm.finetune.model.quantized import (  # noqa: E402
    FrozenRows,
    QuantizedEmbedding,
    QuantizedLinear,
)
from tests.finetune.model.compare import (  # noqa: E402
    entropy,
    llama_logits,
    mean_kl,
    tokens,
    torch_logits,
)
from tests.finetune.model.conftest import Make  # noqa: E402
from tests.finetune.model.families import TINY, WINDOW, gguf_of, hf_model  # noqa: E402

NAMES = [tiny.name for tiny in TINY]
LONG = 3 * WINDOW  # tokens: past every sliding window


@pytest.mark.parametrize("i", range(len(TINY)), ids=NAMES)
def test_logits_are_llama_cpps(made: Make, i: int) -> None:
    one = made(i)
    loaded = load_causal(one.path)
    ids = tokens(LONG, seed=i)
    want, got = llama_logits(one.path, ids), torch_logits(loaded.module, ids)
    assert 0.5 < entropy(want) < 5.65  # no certainty, and not all alike: ln 302 is 5.71
    assert mean_kl(want, got) < 1e-5
    # and the module that the file was written from computes the same
    np.testing.assert_allclose(got, torch_logits(one.module, ids), atol=1e-4)
    assert loaded.arch == one.tiny.arch
    assert type(loaded.module).__name__ == expected_class(one.tiny.class_name)


def expected_class(name: str) -> str:
    """llama.cpp does not tell a Mistral from a Llama."""
    return "LlamaForCausalLM" if name == "MistralForCausalLM" else name


def test_every_family_is_compared() -> None:
    assert {tiny.arch for tiny in TINY} == set(families())


@pytest.mark.parametrize(
    ("i", "key", "value"),
    [
        (1, "rope_freqs.weight", None),
        (8, "sliding_window", 4 * WINDOW),
        (8, "attn_logit_softcapping", 1e9),
        (9, "sliding_window", 4 * WINDOW),
        (11, "attention_factor", 1.0),
        (15, "layer_types", ["full_attention"] * 5),
    ],
)
def test_the_comparison_would_see_a_mistake(made: Make, i: int, key: str, value: Any) -> None:
    """A config that is wrong in one point is far from llama.cpp's logits."""
    from dataclasses import replace

    tiny = TINY[i]
    changed = dict(tiny.config)
    if key == "rope_freqs.weight":
        rope = {"rope_type": "default", "rope_theta": 500000.0}
        changed["rope_parameters"] = rope
    elif key == "attention_factor":
        changed["rope_parameters"] = {**changed["rope_parameters"], key: value}
    else:
        changed[key] = value
    wrong = hf_model(replace(tiny, config=changed), seed=i)
    ids = tokens(LONG, seed=i)
    assert mean_kl(llama_logits(made(i).path, ids), torch_logits(wrong, ids)) > 1e-4


def test_longrope_takes_the_long_factors_past_the_original_length(tmp_path: Path) -> None:
    """llama.cpp decides by its context's size, transformers by the text's length."""
    from dataclasses import replace

    tiny = TINY[11]
    rope = {**tiny.config["rope_parameters"], "original_max_position_embeddings": 32}
    tiny = replace(tiny, config={**tiny.config, "rope_parameters": rope,
                                 "original_max_position_embeddings": 32})  # fmt: skip
    path = gguf_of(hf_model(tiny), tiny, tmp_path / "long.gguf")
    ids = tokens(LONG)
    assert mean_kl(llama_logits(path, ids), torch_logits(load_causal(path).module, ids)) < 1e-5


@pytest.mark.parametrize("dtype", ["Q8_0", "Q5_1", "IQ4_NL", "BF16", "F32"])
def test_every_stored_type_is_dequantized_as_ggml_does(tmp_path: Path, dtype: str) -> None:
    import gguf

    path = gguf_of(hf_model(TINY[0]), TINY[0], tmp_path / "m.gguf", dtype)
    state = load_causal(path).module.state_dict()
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "blk.1.ffn_down.weight":
            want = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            got = state["model.layers.1.mlp.down_proj.weight"].numpy()
            np.testing.assert_array_equal(got, want)


def test_precisions(made: Make) -> None:
    for dtype in ("bfloat16", "float16"):
        loaded = load_causal(made(9).path, dtype=dtype)
        assert {p.dtype for p in loaded.module.parameters()} == {getattr(torch, dtype)}
        got = torch_logits(loaded.module, tokens(32))
        assert mean_kl(llama_logits(made(9).path, tokens(32)), got) < 2e-2


def test_who_wants_gradients(made: Make) -> None:
    assert not any(p.requires_grad for p in load_causal(made(0).path).module.parameters())
    tuned = load_causal(made(0).path, trainable="all").module
    assert all(p.requires_grad for p in tuned.parameters())
    assert not tuned.training


def test_training_leaves_the_file_alone(made: Make) -> None:
    before = made(0).path.read_bytes()
    loaded = load_causal(made(0).path, trainable="all")
    optimizer = torch.optim.SGD(loaded.module.parameters(), lr=0.1)
    ids = torch.tensor([tokens(16)])
    loaded.module(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert made(0).path.read_bytes() == before


# --- frozen in the file's bytes -----------------------------------------------------------

# llama with paired rows and biases, starcoder 2 (biases), gemma 3 (scaled, tied), phi 3 (fused)
KEPT = (1, 16, 9, 10)


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0", "F16"])
@pytest.mark.parametrize("i", KEPT, ids=[NAMES[i] for i in KEPT])
def test_quantized_layers_compute_what_dense_ones_do(tmp_path: Path, i: int, dtype: str) -> None:
    path = gguf_of(hf_model(TINY[i], seed=i), TINY[i], tmp_path / "m.gguf", dtype)
    dense, kept = load_causal(path), load_causal(path, frozen="quantized")
    assert count(kept, QuantizedLinear) == count(dense, torch.nn.Linear)
    assert count(kept, QuantizedEmbedding) == 1
    assert not any(p.ndim > 1 for p in kept.module.parameters())
    ids = tokens(40, seed=i)
    np.testing.assert_allclose(
        torch_logits(kept.module, ids), torch_logits(dense.module, ids), atol=1e-5
    )


def count(loaded: LoadedModel, kind: type) -> int:
    return sum(isinstance(one, kind) for one in loaded.module.modules())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_through_quantized_layers(made: Make, checkpointing: bool) -> None:
    """An adapter of peft's on q, v and down gets the gradients that it gets on dense layers."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    grads = []
    for frozen in ("dense", "quantized"):
        loaded = load_causal(made(9).path, frozen=frozen)  # type: ignore[arg-type]
        settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
        torch.manual_seed(0)
        module = peft.get_peft_model(loaded.module, settings).train()
        if checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        ids = torch.tensor([tokens(24), tokens(24, seed=1)])
        module(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        grads.append({n: p.grad for n, p in module.named_parameters() if p.requires_grad})
    assert len(grads[0]) == 6 * TINY[9].layers
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-6)
        assert grad.abs().max() > 0


def test_a_product_in_blocks_of_rows(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large matrices never become numbers as a whole."""
    from localllm.finetune.model import quantized

    monkeypatch.setattr(quantized, "BLOCK_ELEMENTS", 7 * 128)  # seven rows
    loaded = load_causal(made(0).path, frozen="quantized")
    dense = load_causal(made(0).path)
    q = loaded.module.get_submodule("model.layers.0.self_attn.q_proj")
    rows = q.rows
    assert isinstance(rows, FrozenRows)
    assert len(rows.spans()) == -(-128 // 7)
    weight = dense.module.get_submodule("model.layers.0.self_attn.q_proj").weight
    assert torch.equal(q.weight, weight)
    x = torch.randn(2, 3, 128, requires_grad=True)
    y = torch.randn(2, 3, 128)
    (q(x) * y).sum().backward()
    torch.testing.assert_close(x.grad, y @ weight)
    embedding = loaded.module.get_input_embeddings()
    ids = torch.tensor([[3, 3, 299], [0, 7, 3]])
    assert torch.equal(embedding(ids), dense.module.get_input_embeddings()(ids))


def test_a_module_that_moves_to_another_type(made: Make) -> None:
    loaded = load_causal(made(9).path, frozen="quantized")
    loaded.module.to(torch.bfloat16)
    with torch.no_grad():
        logits = loaded.module(input_ids=torch.tensor([tokens(12)])).logits
    assert logits.dtype == torch.bfloat16
    assert not any(key.endswith("proj.weight") for key in loaded.module.state_dict())


# --- safetensors --------------------------------------------------------------------------


@pytest.mark.parametrize("i", [0, 3, 9, 16], ids=[NAMES[i] for i in (0, 3, 9, 16)])
def test_a_folder_of_safetensors(made: Make, i: int, tmp_path: Path) -> None:
    from localllm.finetune.model import adapter_gguf
    from tests.finetune.model.test_adapter import linears, random_pairs, with_lora

    folder = tmp_path / "hf"
    made(i).module.to(torch.bfloat16).save_pretrained(folder, max_shard_size="300KB")
    made(i).module.float()
    ids = tokens(LONG, seed=i)
    for frozen in ("dense", "quantized"):
        loaded = load_causal(folder, frozen=frozen)  # type: ignore[arg-type]
        assert type(loaded.module).__name__ == TINY[i].class_name
        assert mean_kl(torch_logits(made(i).module, ids), torch_logits(loaded.module, ids)) < 1e-2
    assert loaded.arch == TINY[i].arch
    # an adapter for the GGUF that would be made of it: paired rows are paired
    dense = load_causal(folder)
    pairs = random_pairs(dense, linears(dense))
    adapter_gguf(pairs, 8.0, dense, tmp_path / "lora.gguf")
    got = llama_logits(made(i).path, ids, tmp_path / "lora.gguf")
    with_lora(dense.module, pairs, 2.0)
    assert mean_kl(got, torch_logits(dense.module, ids)) < 1e-2


def test_a_folder_whose_config_lies(made: Make, tmp_path: Path) -> None:
    from localllm.errors import DamagedFile, EngineError, UsageProblem

    made(0).module.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    config = json.loads(path.read_text())

    def told(**more: Any) -> None:
        path.write_text(json.dumps({**config, **more}))

    told(hidden_size=64)
    with pytest.raises(DamagedFile, match="has the shape"):
        load_causal(tmp_path / "hf")
    told(num_hidden_layers=3)
    with pytest.raises(DamagedFile, match=r"it has no tensor model\.layers\.2"):
        load_causal(tmp_path / "hf")
    told(model_type="mamba", architectures=["MambaForCausalLM"])
    with pytest.raises(EngineError, match="'mamba' cannot be trained yet"):
        load_causal(tmp_path / "hf")
    told(architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UsageProblem, match="writes no text"):
        load_causal(tmp_path / "hf")
    told(hidden_size="wide")
    with pytest.raises(EngineError, match="transformers refuses its sizes"):
        load_causal(tmp_path / "hf")
    told(quantization_config={"quant_method": "gptq"})
    with pytest.raises(EngineError, match="quantized in a way of their own"):
        load_causal(tmp_path / "hf")


# --- the real model -----------------------------------------------------------------------

TEXT = """The lighthouse stood at the end of a long spit of sand. Every evening, an hour before
sunset, the keeper climbed the spiral stairs with a can of oil and a cloth to polish the lens. """


@pytest.mark.model
def test_the_real_model(real_gguf: Path, tmp_path: Path) -> None:
    """Gemma 3 270M: its F16 copy computes what llama.cpp computes of it to 1e-4. Of Q4_K_M the
    engine multiplies with activations in 8 bits, which torch does not: a few 1e-3."""
    from localllm.engine.model import Model
    from localllm.finetune.model import save_gguf

    loaded = load_causal(real_gguf)
    half = tmp_path / "f16.gguf"
    save_gguf(loaded, half, type="F16")
    with Model.load(half) as model:
        ids = model.tokenizer.encode(TEXT * 14)[:540]  # the sliding window is 512
    torch.set_num_threads(2)  # the fixture puts it back
    rows = [3, 40, 511, 512, 525, 539]
    engine = llama_logits(half, ids, keep=rows, n_threads=2)
    assert mean_kl(engine, torch_logits(load_causal(half).module, ids, rows)) < 1e-4
    engine = llama_logits(real_gguf, ids, keep=rows, n_threads=2)
    assert mean_kl(engine, torch_logits(loaded.module, ids, rows)) < 2e-2
    kept = load_causal(real_gguf, frozen="quantized")
    np.testing.assert_allclose(
        torch_logits(kept.module, ids[:20]), torch_logits(loaded.module, ids[:20]), atol=1e-3
    )
