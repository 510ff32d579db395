"""Weights back into GGUFs: what was not touched keeps its bytes, what was is what torch has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
pytest.importorskip("transformers", reason="the extra `finetune` is not installed")

from localllm.engine.model import Model  # noqa: E402
from localllm.engine.options import LoadOptions  # noqa: E402
from localllm.errors import DamagedFile, EngineError, UsageProblem  # noqa: E402
from localllm.finetune.model import load_causal, save_gguf, write_scratch  # noqa: E402
from localllm.formats import read_model  # noqa: E402
from localllm.formats.gguf.index import index_header  # noqa: E402
from tests.finetune.model.compare import llama_logits, mean_kl, tokens, torch_logits  # noqa: E402
from tests.finetune.model.conftest import Make  # noqa: E402
from tests.finetune.model.families import TINY, gguf_of, hf_model  # noqa: E402

# llama with factors and biases, gemma 3 with shifted norms, phi 3 with long factors
SAVED = (1, 9, 11)


def pairs_of(path: Path) -> dict[str, bytes]:
    """Every key and value as it lies in the file."""
    raw = path.read_bytes()
    entries = index_header(raw, len(raw), path.name).entries
    return {key: raw[one.pair_start : one.end] for key, one in entries.items()}


def tensors_of(path: Path) -> dict[str, tuple[Any, ...]]:
    model, raw = read_model(path), path.read_bytes()
    found = {}
    for name, info in model.tensors.items():
        place = model.locate(name)
        data = raw[place.offset : place.offset + place.size_bytes]
        found[name] = (info.shape, info.type_name, data)
    return found


@pytest.mark.parametrize("i", SAVED, ids=[TINY[i].name for i in SAVED])
def test_untouched_is_the_file_itself(made: Make, i: int, tmp_path: Path) -> None:
    one = made(i)
    for frozen in ("dense", "quantized"):
        loaded = load_causal(one.path, frozen=frozen)  # type: ignore[arg-type]
        out = tmp_path / f"{frozen}.gguf"
        save_gguf(loaded, out, type="F16")
        assert tensors_of(out) == tensors_of(one.path)
        assert pairs_of(out) == pairs_of(one.path)


@pytest.mark.parametrize("i", SAVED, ids=[TINY[i].name for i in SAVED])
def test_trained_weights_are_what_the_engine_runs(made: Make, i: int, tmp_path: Path) -> None:
    one = made(i)
    loaded = load_causal(one.path, trainable="all")
    torch.manual_seed(i)
    with torch.no_grad():
        for parameter in loaded.module.parameters():
            parameter += 0.05 * parameter.std() * torch.randn_like(parameter)
    ids = tokens(64, seed=i)
    want = torch_logits(loaded.module, ids)
    out = tmp_path / "tuned.gguf"
    save_gguf(loaded, out, type="F32", metadata={"general.name": "tuned"})
    assert mean_kl(llama_logits(one.path, ids), want) > 1e-3
    assert mean_kl(llama_logits(out, ids), want) < 1e-5
    np.testing.assert_allclose(torch_logits(load_causal(out).module, ids), want, atol=1e-3)
    before, after = pairs_of(one.path), pairs_of(out)
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {"general.name", "general.file_type"}
    assert list(after) == list(before)


def test_one_changed_tensor_changes_alone(made: Make, tmp_path: Path) -> None:
    """Gemma's norms lose a bit when 1 is taken away and added again: only the touched one may."""
    one = made(9)
    loaded = load_causal(one.path)
    with torch.no_grad():
        loaded.module.get_parameter("model.layers.2.self_attn.q_norm.weight")[3] += 0.5
    out = tmp_path / "out.gguf"
    save_gguf(loaded, out)
    before, after = tensors_of(one.path), tensors_of(out)
    assert {name for name in before if before[name] != after[name]} == {"blk.2.attn_q_norm.weight"}


def test_layers_inside_adapters_are_found(made: Make, tmp_path: Path) -> None:
    """peft puts its layer around the model's own."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    for frozen in ("dense", "quantized"):
        loaded = load_causal(made(0).path, frozen=frozen)  # type: ignore[arg-type]
        peft.get_peft_model(loaded.module, peft.LoraConfig(r=2, target_modules=["q_proj"]))
        save_gguf(loaded, tmp_path / "out.gguf")
        assert tensors_of(tmp_path / "out.gguf") == tensors_of(made(0).path)


def test_split_quantized_source_and_other_types(made: Make, tmp_path: Path) -> None:
    """A split Q8_0 comes out as one BF16 file with its numbers, rounded once."""
    from tests.support.tiny_models import llama_model

    parts = llama_model(dtype="Q8_0", n_layer=2).write_split(tmp_path, "big", 3)
    loaded = load_causal(parts[1], frozen="quantized")
    save_gguf(loaded, tmp_path / "out.gguf", type="BF16")
    file = read_model(tmp_path / "out.gguf")
    assert file.split is None
    assert file.u32("general.file_type") == 32
    again = load_causal(tmp_path / "out.gguf").module.state_dict()
    dense = load_causal(parts[0]).module.state_dict()
    for name, numbers in dense.items():
        rounded = numbers.bfloat16().float() if numbers.ndim > 1 else numbers
        assert torch.equal(again[name], rounded), name


def test_numbers_that_do_not_fit(made: Make, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    loaded = load_causal(made(0).path)
    weight = loaded.module.get_parameter("model.layers.0.mlp.up_proj.weight")
    with torch.no_grad():
        weight[0, 0] = 1e6
    with pytest.raises(EngineError, match=r"ffn_up\.weight has numbers too large for F16"):
        save_gguf(loaded, out)
    save_gguf(loaded, out, type="BF16")
    with torch.no_grad():
        weight[0, 0] = float("nan")
    out.unlink()
    with pytest.raises(EngineError, match="not finite"):
        save_gguf(loaded, out, type="BF16")
    assert not out.exists()


def test_sources_that_do_not_fit(made: Make, tmp_path: Path) -> None:
    loaded = load_causal(made(0).path)
    with pytest.raises(UsageProblem, match="cannot be overwritten"):
        save_gguf(loaded, made(0).path)
    with pytest.raises(UsageProblem, match="is a qwen2, not a llama"):
        save_gguf(loaded, tmp_path / "x.gguf", source=made(4).path)
    with pytest.raises(UsageProblem, match="no type of trained weights"):
        save_gguf(loaded, tmp_path / "x.gguf", type="Q4_K")  # type: ignore[arg-type]


# --- from scratch -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE trained on a few sentences."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|pad|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 20, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


TEXTS = [
    "The quick brown fox doesn't jump over 1234 lazy dogs; they're asleep.",
    "Größe, naïve café — 東京 ラマ 🙂\n\n\tdef f(x):  return x**2   # done",
    "  leading spaces, trailing spaces  \r\n and 'quotes' and \"more\" I'LL",
]


def scratch_model(n_vocab: int) -> Any:
    tiny = TINY[0]
    from dataclasses import replace

    more = {"vocab_size": n_vocab, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    return hf_model(replace(tiny, config={**tiny.config, **more}), seed=5)


def test_a_model_from_scratch(tokenizer: Path, tmp_path: Path) -> None:
    import tokenizers

    module = scratch_model(432)  # more than the tokenizer has
    out = tmp_path / "scratch.gguf"
    write_scratch(module, tokenizer, out, chat_template="{{ 1 }}", metadata={"general.name": "s"})
    theirs = tokenizers.Tokenizer.from_file(str(tokenizer))
    with Model.load(out, LoadOptions(vocab_only=True)) as model:
        assert model.meta("tokenizer.chat_template") == "{{ 1 }}"
        assert model.meta("general.name") == "s"
        for text in TEXTS:
            ours = model.tokenizer.encode(text, add_special=False)
            assert list(ours) == theirs.encode(text).ids
        assert model.tokenizer.eos == 0
    ids = theirs.encode(TEXTS[0]).ids
    want = torch_logits(module, ids)
    np.testing.assert_allclose(llama_logits(out, ids), want, atol=2.5e-2)
    write_scratch(module, tokenizer, tmp_path / "f32.gguf", type="F32")
    np.testing.assert_allclose(llama_logits(tmp_path / "f32.gguf", ids), want, atol=2.5e-3)
    np.testing.assert_allclose(torch_logits(load_causal(out).module, ids), want, atol=1e-4)


def test_tokenizers_that_llama_cpp_would_not_cut_like(tokenizer: Path, tmp_path: Path) -> None:
    module = scratch_model(432)
    bad = tmp_path / "tokenizer.json"
    out = tmp_path / "no.gguf"
    document = json.loads(tokenizer.read_text())
    for change in (
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"model": {**document["model"], "type": "Unigram"}},
    ):
        bad.write_text(json.dumps({**document, **change}))
        with pytest.raises(UsageProblem, match="byte-level BPE"):
            write_scratch(module, bad, out)
    with pytest.raises(UsageProblem, match=r"has 3\d\d tokens, the model 300"):
        write_scratch(scratch_model(300), tokenizer, out)
    bad.write_text("{}")
    with pytest.raises(DamagedFile, match="is no tokenizer"):
        write_scratch(module, bad, out)
    with pytest.raises(UsageProblem, match="a model from scratch is a llama"):
        write_scratch(hf_model(TINY[4]), tokenizer, out)
    assert not out.exists()


def test_what_was_written_of_hf_is_read(made: Make, tmp_path: Path) -> None:
    """The helper that other tests stand on writes F32 exactly."""
    module = hf_model(TINY[4], seed=3)
    again = load_causal(gguf_of(module, TINY[4], tmp_path / "q.gguf", "F32")).module.state_dict()
    for name, numbers in module.state_dict().items():
        assert torch.equal(again[name], numbers), name
