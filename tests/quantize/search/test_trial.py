"""Types tried on a loaded model, against files that hold the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions, LoadOptions
from localllm.engine.quality.chunks import Chunk, chunks_of
from localllm.engine.quality.quality import Judge, kld_sample
from localllm.engine.quantize.quantize import QuantizeOptions, Quantizer
from localllm.formats.gguf import read_model
from localllm.quantize.importance import importance_file, load_importance
from localllm.quantize.planfile import patterns_of
from localllm.quantize.search.live import LiveWeights
from localllm.quantize.search.trial import Trial
from localllm.quantize.search.weights import Weights
from tests.quantize.made import write_imatrix
from tests.support.tiny_models import llama_model, split, tiny_gemma3, tiny_llama, tiny_qwen3moe

OPTIONS = ContextOptions(n_ctx=128, n_batch=128, n_ubatch=128, n_threads=2, op_offload=False)


def contexts() -> tuple[Chunk, ...]:
    tokens = np.random.default_rng(3).integers(5, 200, 256).tolist()
    return chunks_of(tokens, 64, None, n_scored=16)


def trial(path: Path, vectors: Mapping[str, Any], then: Callable[[Trial], None]) -> None:
    weights = Weights(path)
    live = LiveWeights(weights.model.tensors)
    options = ContextOptions(**{**vars(OPTIONS), "eval_hook": live.hook})
    with (
        Model.load(path, LoadOptions(mmap=False)) as model,
        Context(model, options) as context,
        Trial(weights, live, context, contexts(), vectors, 2, 1 << 20) as made,
    ):
        then(made)


def kld_of_files(original: Path, other: Path) -> float:
    """By two models from two files."""
    chunks = contexts()
    with (
        Model.load(original) as model,
        Context(model, OPTIONS) as context,
        Judge(context, 2) as judge,
    ):
        references = judge.references(chunks)
    with Model.load(other) as model, Context(model, OPTIONS) as context:
        return kld_sample(context, chunks, references, 2).mean.value


def quantized(source: Path, target: Path, types: Mapping[str, str], importance: Path) -> Path:
    """What llama.cpp makes of a file with these types, every other tensor as it was."""
    held = {n: t for n, t in read_model(source).tensors.items() if len(t.shape) > 1}
    planned = {name: types.get(name, t.type.name.lower()) for name, t in held.items()}
    with importance_file(load_importance(importance)) as weights, Quantizer() as quantizer:
        options = QuantizeOptions(
            "Q8_0", tensor_types=patterns_of(planned), importance=weights, n_threads=1
        )
        quantizer.quantize(source, target, options)
    written = read_model(target).tensors
    assert {n: written[n].type.name.lower() for n in types} == dict(types)
    return target


MODELS: dict[str, Callable[[Path], Path]] = {
    "llama": tiny_llama,
    "bf16": lambda p: tiny_llama(p, dtype="BF16"),
    "f32": lambda p: tiny_llama(p, dtype="F32"),
    "experts": tiny_qwen3moe,
    "tied": tiny_gemma3,
}


@pytest.mark.parametrize("which", MODELS)
def test_a_tried_type_does_what_a_file_with_it_does(which: str, tmp_path: Path) -> None:
    path = MODELS[which](tmp_path / "m.gguf")
    write_imatrix(matrix := tmp_path / "i.gguf", path)
    vectors = dict(load_importance(matrix).vectors)
    # llama.cpp leaves a router as it is
    layer = {n: "q3_k" for n in vectors if ".ffn_" in n and "gate_inp" not in n}
    everything = {**layer, **{n: "q4_0" for n in vectors if "attn" in n}}
    everything["token_embd.weight"] = "q4_k"
    expected = {
        name: kld_of_files(path, quantized(path, tmp_path / f"{name}.gguf", types, matrix))
        for name, types in (("layer", layer), ("everything", everything))
    }

    def check(made: Trial) -> None:
        assert all(made.can_change(name) for name in everything)
        assert made.measure({}).mean.value == 0.0
        # a file's tensors may lie in another layout, whose kernels add up in another order
        assert made.measure(layer).mean.value == pytest.approx(expected["layer"], rel=4e-3)
        found = made.measure(everything).mean.value
        assert found == pytest.approx(expected["everything"], rel=4e-3)
        assert made.measure(layer).mean.value == pytest.approx(expected["layer"], rel=4e-3)
        assert made.measure({}).mean.value == 0.0  # everything is as it was

    trial(path, vectors, check)


def test_the_file_itself_is_never_written(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    before = path.read_bytes()

    def change(made: Trial) -> None:
        assert made.measure({"blk.0.ffn_up.weight": "q2_k"}).mean.value > 0

    trial(path, {}, change)
    assert path.read_bytes() == before


def test_shards_are_one_model(tmp_path: Path) -> None:
    shards = split(llama_model, tmp_path, "big", n_shards=2)
    types = {"blk.1.ffn_up.weight": "q3_k", "token_embd.weight": "q4_0"}
    found = []
    trial(shards[0], {}, lambda made: found.append(made.measure(types).mean.value))
    whole = llama_model().write(tmp_path / "whole.gguf")
    trial(whole, {}, lambda made: found.append(made.measure(types).mean.value))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_what_no_graph_uses_cannot_be_changed(tmp_path: Path) -> None:
    def check(made: Trial) -> None:
        assert not made.can_change("blk.9.attn_q.weight")
        assert made.measure({"blk.9.attn_q.weight": "q2_k"}).mean.value == 0.0

    trial(tiny_llama(tmp_path / "m.gguf"), {}, check)


def test_the_original_answers_again_after_types_were_tried(tmp_path: Path) -> None:
    chunks = contexts()

    def check(made: Trial) -> None:
        first = made.judged_by(chunks).references
        made.measure({"blk.0.attn_v.weight": "q2_k"})
        again = made.judged_by(chunks).references
        np.testing.assert_array_equal(first[0].logits, again[0].logits)

    trial(tiny_llama(tmp_path / "m.gguf"), {}, check)
