"""LoRA pairs to llama.cpp's adapters and back: the engine computes what torch does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
pytest.importorskip("transformers", reason="the extra `finetune` is not installed")

from localllm.errors import DamagedFile, UsageProblem  # noqa: E402
from localllm.finetune.model import LoadedModel, load_causal  # noqa: E402
from localllm.finetune.model.adapter import LoraPair, adapter_gguf, read_adapter  # noqa: E402
from localllm.finetune.model.fold import fold_lora  # noqa: E402
from localllm.formats import read_model  # noqa: E402
from tests.finetune.model.compare import llama_logits, mean_kl, tokens, torch_logits  # noqa: E402
from tests.finetune.model.conftest import Make  # noqa: E402
from tests.finetune.model.families import TINY  # noqa: E402

RANK = 4


def random_pairs(loaded: LoadedModel, paths: list[str], seed: int = 1) -> dict[str, LoraPair]:
    rng = np.random.default_rng(seed)
    shapes = {slot.module: slot.shape for slot in loaded.slots if slot.hf.endswith(".weight")}
    pairs = {}
    for path in paths:
        n_out, n_in = shapes[path]
        if "embed" in path:
            n_out, n_in = n_in, n_out
        a = rng.standard_normal((RANK, n_in), dtype=np.float32) * n_in**-0.5
        b = rng.standard_normal((n_out, RANK), dtype=np.float32) * 0.5
        pairs[path] = LoraPair(a, b)
    return pairs


def linears(loaded: LoadedModel) -> list[str]:
    return [s.module for s in loaded.slots if len(s.shape) == 2 and ".layers." in s.hf]


def with_lora(module: Any, pairs: dict[str, LoraPair], scale: float) -> None:
    """What peft computes, put into the weights by hand: W + s B A."""
    with torch.no_grad():
        for path, pair in pairs.items():
            delta = torch.from_numpy(np.asarray(pair.b)) @ torch.from_numpy(np.asarray(pair.a))
            weight = module.get_submodule(path).weight
            weight += scale * (delta.T if "embed" in path else delta)


@pytest.mark.parametrize("i", range(len(TINY)), ids=[tiny.name for tiny in TINY])
def test_the_engine_computes_the_adapter(made: Make, i: int, tmp_path: Path) -> None:
    """All linear layers of every family; q and k of a llama have their rows paired."""
    one = made(i)
    loaded = load_causal(one.path)
    pairs = random_pairs(loaded, linears(loaded))
    out = tmp_path / "lora.gguf"
    adapter_gguf(pairs, 8.0, loaded, out)
    ids = tokens(48, seed=i)
    got = llama_logits(one.path, ids, out)
    assert mean_kl(llama_logits(one.path, ids), got) > 1e-2  # it does something
    with_lora(loaded.module, pairs, 8.0 / RANK)
    want = torch_logits(loaded.module, ids)
    assert mean_kl(got, want) < 1e-4
    half = llama_logits(one.path, ids, out, 0.5)
    again = load_causal(one.path)
    with_lora(again.module, pairs, 4.0 / RANK)
    assert mean_kl(half, torch_logits(again.module, ids)) < 1e-4


def test_embedding_and_output_of_an_untied_model(made: Make, tmp_path: Path) -> None:
    one = made(0)
    loaded = load_causal(one.path)
    pairs = random_pairs(loaded, ["model.embed_tokens", "lm_head"])
    out = tmp_path / "lora.gguf"
    adapter_gguf(pairs, 2.0, loaded, out, {"general.name": "ends"})
    ids = tokens(40)
    got = llama_logits(one.path, ids, out)
    with_lora(loaded.module, pairs, 2.0 / RANK)
    assert mean_kl(got, torch_logits(loaded.module, ids)) < 1e-4
    again = read_adapter(out, load_causal(one.path))
    for path, pair in pairs.items():
        np.testing.assert_array_equal(again.pairs[path].a, pair.a)
        np.testing.assert_array_equal(again.pairs[path].b, pair.b)


def test_what_is_written_is_read_back(made: Make, tmp_path: Path) -> None:
    one = made(1)
    loaded = load_causal(one.path)
    pairs = random_pairs(loaded, linears(loaded))
    adapter_gguf(pairs, 3.5, loaded, tmp_path / "lora.gguf")
    again = read_adapter(tmp_path / "lora.gguf", loaded)
    assert again.alpha == 3.5
    assert again.pairs.keys() == pairs.keys()
    for path, pair in pairs.items():
        np.testing.assert_array_equal(again.pairs[path].a, pair.a)
        np.testing.assert_array_equal(again.pairs[path].b, pair.b)


def test_rank_stabilized_and_mixed_ranks(made: Make, tmp_path: Path) -> None:
    """llama.cpp knows alpha / r only: the rest is in alpha, or in B."""
    one = made(4)
    loaded = load_causal(one.path)
    paths = linears(loaded)[:2]
    pairs = random_pairs(loaded, paths)
    adapter_gguf(pairs, 6.0, loaded, tmp_path / "rs.gguf", rslora=True)
    assert read_model(tmp_path / "rs.gguf").f32("adapter.lora.alpha") == 12.0  # 6 * sqrt(4)
    wide, narrow = pairs[paths[0]], pairs[paths[1]]
    mixed = {
        paths[0]: LoraPair(wide.a, wide.b, scale=0.25),
        paths[1]: LoraPair(np.asarray(narrow.a)[:2], np.asarray(narrow.b)[:, :2]),
    }
    adapter_gguf(mixed, 6.0, loaded, tmp_path / "mixed.gguf")
    ids = tokens(40)
    got = llama_logits(one.path, ids, tmp_path / "mixed.gguf")
    with_lora(loaded.module, {paths[0]: mixed[paths[0]]}, 0.25)
    with_lora(loaded.module, {paths[1]: mixed[paths[1]]}, 6.0 / 2)
    assert mean_kl(got, torch_logits(loaded.module, ids)) < 1e-4


def test_half_precision_and_torch_tensors(made: Make, tmp_path: Path) -> None:
    loaded = load_causal(made(0).path)
    path = linears(loaded)[0]
    pair = random_pairs(loaded, [path])[path]
    a, b = (torch.from_numpy(np.asarray(matrix)) for matrix in (pair.a, pair.b))
    given = LoraPair(a.bfloat16(), b)
    adapter_gguf({path: given}, 4.0, loaded, tmp_path / "half.gguf", dtype="f16")
    file = read_model(tmp_path / "half.gguf")
    assert {one.type_name for one in file.tensors.values()} == {"F16"}
    again = read_adapter(tmp_path / "half.gguf", loaded).pairs[path]
    np.testing.assert_array_equal(again.b, np.asarray(pair.b).astype(np.float16))


def test_what_an_adapter_cannot_hold(made: Make, tmp_path: Path) -> None:
    tied = load_causal(made(6).path)
    out = tmp_path / "no.gguf"
    a, b = np.ones((2, 128), np.float32), np.ones((302, 2), np.float32)
    for path in ("model.embed_tokens", "lm_head"):
        with pytest.raises(UsageProblem, match="output is its embedding"):
            adapter_gguf({path: LoraPair(a, b)}, 1.0, tied, out)
    loaded = load_causal(made(0).path)
    path = linears(loaded)[0]
    pair = random_pairs(loaded, [path])[path]
    length = np.ones(128, np.float32)
    with pytest.raises(UsageProblem, match="DoRA"):
        adapter_gguf({path: LoraPair(pair.a, pair.b, magnitude=length)}, 1.0, loaded, out)
    with pytest.raises(UsageProblem, match="is no weight of a llama"):
        adapter_gguf({"model.layers.9.x": pair}, 1.0, loaded, out)
    with pytest.raises(UsageProblem, match=r"is \(128, 4\) by \(4, 128\), not for"):
        adapter_gguf({"model.layers.0.mlp.up_proj": pair}, 1.0, loaded, out)
    with pytest.raises(UsageProblem, match="above 0"):
        adapter_gguf({path: pair}, 0.0, loaded, out)
    with pytest.raises(UsageProblem, match="no LoRA pair"):
        adapter_gguf({}, 1.0, loaded, out)
    assert not out.exists()


def test_reading_what_is_no_adapter_of_this_model(made: Make, tmp_path: Path) -> None:
    llama, qwen = load_causal(made(0).path), load_causal(made(4).path)
    path = linears(llama)[0]
    out = tmp_path / "lora.gguf"
    adapter_gguf(random_pairs(llama, [path]), 1.0, llama, out)
    with pytest.raises(UsageProblem, match="is for a llama, and this model is a qwen2"):
        read_adapter(out, qwen)
    with pytest.raises(UsageProblem, match="is no adapter"):
        read_adapter(made(0).path, llama)
    with pytest.raises(UsageProblem, match="does not fit this model"):
        read_adapter(out, load_causal(made(1).path))  # other heads
    out.write_bytes(out.read_bytes()[:-100])
    with pytest.raises(DamagedFile):
        read_adapter(out, llama)


def test_dora_is_folded_exactly(made: Make) -> None:
    """Against peft's own layer: W' = m (W + s B A) / |W + s B A|."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    loaded = load_causal(made(0).path)
    target = load_causal(made(0).path).module
    settings = peft.LoraConfig(r=RANK, lora_alpha=8, target_modules=["q_proj"], use_dora=True)
    theirs = peft.get_peft_model(target, settings)
    pairs = {}
    for name, layer in theirs.named_modules():
        if name.endswith("q_proj"):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
            magnitude = layer.lora_magnitude_vector["default"].weight
            with torch.no_grad():
                magnitude.mul_(1 + 0.2 * torch.rand_like(magnitude))
            pairs[name.removeprefix("base_model.model.")] = LoraPair(
                layer.lora_A["default"].weight, layer.lora_B["default"].weight,
                magnitude=magnitude,
            )  # fmt: skip
    ids = tokens(40)
    want = torch_logits(theirs, ids)
    plain = torch_logits(loaded.module, ids)
    for frozen in ("dense", "quantized"):
        folded = load_causal(made(0).path, frozen=frozen)  # type: ignore[arg-type]
        fold_lora(folded, pairs, 8.0)
        np.testing.assert_allclose(torch_logits(folded.module, ids), want, atol=2e-4)
    assert mean_kl(plain, want) > 1e-3


CONVERTED = (0, 4, 9, 10)  # paired rows, plain, Gemma, fused


@pytest.mark.parametrize("i", CONVERTED, ids=[TINY[i].name for i in CONVERTED])
def test_tensor_by_tensor_what_the_converter_writes(made: Make, i: int, tmp_path: Path) -> None:
    """llama.cpp's convert_lora_to_gguf.py on peft's folder of the same pairs."""
    given = os.environ.get("LOCALLLM_TEST_CONVERTER")
    if not given:
        pytest.skip("LOCALLLM_TEST_CONVERTER names no folder with llama.cpp's converter")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from localllm.formats.convert import Conversion, convert, find_converter

    loaded = load_causal(made(i).path)
    targets = sorted({path.rpartition(".")[2] for path in linears(loaded)})
    settings = peft.LoraConfig(r=RANK, lora_alpha=6, target_modules=targets)
    theirs = peft.get_peft_model(load_causal(made(i).path).module, settings)
    pairs = {}
    for name, layer in theirs.named_modules():
        if hasattr(layer, "lora_A"):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
            pairs[name.removeprefix("base_model.model.")] = LoraPair(
                layer.lora_A["default"].weight, layer.lora_B["default"].weight
            )
    assert pairs.keys() == set(linears(loaded))
    adapter_gguf(pairs, 6.0, loaded, tmp_path / "ours.gguf")
    theirs.save_pretrained(tmp_path / "peft")
    config = made(i).module.config.to_dict() | {"architectures": [TINY[i].class_name]}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "out").mkdir()
    conversion = Conversion(tmp_path / "peft", "f32", "adapter", base=tmp_path / "base")
    made_by_them = convert(find_converter(Path(given)), conversion, tmp_path / "out")
    want, got = gguf.GGUFReader(made_by_them), gguf.GGUFReader(tmp_path / "ours.gguf")
    by_name = {tensor.name: tensor for tensor in got.tensors}
    assert by_name.keys() == {tensor.name for tensor in want.tensors}
    for tensor in want.tensors:
        ours = by_name[tensor.name]
        assert (ours.tensor_type, ours.shape.tolist()) == (
            tensor.tensor_type,
            tensor.shape.tolist(),
        )
        np.testing.assert_array_equal(ours.data, tensor.data)
    for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"):
        assert got.fields[key].contents() == want.fields[key].contents()
