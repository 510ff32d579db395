"""Adapters merged into GGUF models: numbers, bytes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.errors import GateFailed
from localllm.formats.gguf import read_model
from localllm.library.merging.adapters import merge_adapters
from localllm.library.merging.result import AdapterRequest, MergedAdapters
from localllm.registry import Registry
from localllm.ui.progress import Silent
from tests.library.merging.adapters import random_pair, write_lora
from tests.library.merging.reading import fields_of, raw_of, tensors_of, types_of
from tests.support.tiny_models import tiny_llama

Q, V, DOWN = "blk.0.attn_q.weight", "blk.1.attn_v.weight", "blk.1.ffn_down.weight"


@pytest.fixture
def merge(registry: Registry) -> Callable[..., MergedAdapters]:
    def run(base: Path, *adapters: tuple[Path, float] | Path, **options: Any) -> MergedAdapters:
        dry_run = options.pop("dry_run", False)
        given = [(a, 1.0) if isinstance(a, Path) else a for a in adapters]
        return merge_adapters(
            base, given, AdapterRequest(**options), registry, Silent(), dry_run=dry_run
        )

    return run


def made(result: MergedAdapters) -> Path:
    assert result.model is not None
    return result.model.path


def test_the_sum_is_the_published_one(merge: Any, tmp_path: Path) -> None:
    """W + scale * alpha / r * B @ A, computed here by numpy in float64."""
    base = tiny_llama(tmp_path / "base.gguf", dtype="F32")
    pairs = {Q: random_pair(1, 256, 256), DOWN: random_pair(2, 512, 256, rank=7)}
    lora = write_lora(tmp_path / "lora.gguf", pairs, alpha=14.0)
    other = write_lora(tmp_path / "other.gguf", {Q: random_pair(3, 256, 256, rank=2)})
    result = merge(base, (lora, 0.5), (other, -2.0), type="F32")
    before, after = tensors_of(base), tensors_of(made(result))
    a, b = (m.astype(np.float64) for m in pairs[Q])
    c, d = (m.astype(np.float64) for m in random_pair(3, 256, 256, rank=2))
    expected = before[Q] + 0.5 * 14.0 / 4 * (b @ a) - 2.0 * (d @ c)
    np.testing.assert_allclose(after[Q], expected, rtol=0, atol=2e-6)
    a, b = (m.astype(np.float64) for m in pairs[DOWN])
    np.testing.assert_allclose(after[DOWN], before[DOWN] + 0.5 * 2.0 * (b @ a), rtol=0, atol=2e-6)
    assert result.survival.share == pytest.approx(1.0, abs=1e-5)
    for name in before:
        if name not in (Q, DOWN):
            np.testing.assert_array_equal(before[name], after[name])


def test_a_base_without_a_template_gets_the_one_it_was_tuned_with(
    merge: Any, tmp_path: Path
) -> None:
    own, its = tmp_path / "own.gguf", tmp_path / "bare.gguf"
    tiny_llama(own, dtype="F32")
    tiny_llama(its, dtype="F32", chat_template=None)
    brought = {"tokenizer.chat_template": "{{ messages[0].content }} brought"}
    lora = write_lora(tmp_path / "l.gguf", {Q: random_pair(1, 256, 256)}, metadata=brought)
    found = {
        path.stem: read_model(made(merge(path, lora, type="F32"))).text("tokenizer.chat_template")
        for path in (own, its)
    }
    assert found["bare"] == brought["tokenizer.chat_template"]
    assert found["own"] == read_model(own).text("tokenizer.chat_template") != found["bare"]


def test_what_llama_cpp_computes_is_what_the_adapter_gave(merge: Any, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base.gguf", dtype="F32")
    lora = write_lora(
        tmp_path / "lora.gguf",
        {Q: random_pair(1, 256, 256), V: random_pair(2, 256, 128), DOWN: random_pair(3, 512, 256)},
        alpha=8.0,
    )
    merged = made(merge(base, (lora, 0.7), type="F32"))
    plain, attached, after = (logits(base), logits(base, (lora, 0.7)), logits(merged))
    assert np.abs(plain - attached).max() > 0.1
    np.testing.assert_allclose(after, attached, rtol=0, atol=1e-2)  # the cache is in f16


def test_metadata_and_untouched_tensors_are_byte_for_byte(merge: Any, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base.gguf", dtype="Q4_K")
    lora = write_lora(tmp_path / "lora.gguf", {Q: random_pair(1, 256, 256)})
    path = made(merge(base, lora, type="Q8_0"))
    before, after = fields_of(base), fields_of(path)
    assert {k: v for k, v in after.items() if not k.startswith("localllm.")} == before | {
        "general.file_type": after["general.file_type"]
    }
    assert list(before) == [k for k in after if not k.startswith("localllm.")]
    raw, own = raw_of(base), raw_of(path)
    assert {name for name in raw if raw[name] != own[name]} == {Q}
    assert types_of(path)[Q] == "Q8_0"


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_K_M", "Q6_K", "IQ4_XS", "Q8_0", "BF16"])
def test_what_is_quantized_is_what_llama_cpp_makes(merge: Any, tmp_path: Path, kind: str) -> None:
    """Merged straight to a type, each tensor has the bytes that llama.cpp's own quantizer makes of
    the merge in F32, importance matrix included."""
    from localllm.engine.quantize.quantize import (
        ImportanceFile,
        ImportanceVector,
        QuantizeOptions,
        quantize,
    )
    from tests.quantize.made import write_imatrix

    base = tiny_llama(tmp_path / "base.gguf", dtype="F32")
    vectors = write_imatrix(tmp_path / "i.gguf", base)
    lora = write_lora(
        tmp_path / "lora.gguf", {Q: random_pair(1, 256, 256), DOWN: random_pair(2, 512, 256)}
    )
    whole = made(merge(base, lora, type="F32"))
    weights, offset = [], 0
    with (tmp_path / "v.f32").open("wb") as file:
        for name, vector in vectors.items():
            file.write(vector.astype("<f4").tobytes())
            weights.append(ImportanceVector(name, offset, vector.size))
            offset += vector.size
    options = QuantizeOptions(kind, importance=ImportanceFile(tmp_path / "v.f32", tuple(weights)))
    quantize(whole, tmp_path / "peer.gguf", options)
    path = made(merge(base, lora, type=kind, imatrix=tmp_path / "i.gguf", allow_loss=True))
    assert types_of(path) == types_of(tmp_path / "peer.gguf")
    assert raw_of(path) == raw_of(tmp_path / "peer.gguf")


def test_survival_is_measured_and_the_own_type_refused(merge: Any, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base.gguf", dtype="Q4_K")
    pairs = {
        name: random_pair(i, 256, 256, size=3e-5)
        for i, name in enumerate((Q, "blk.1.attn_q.weight"))
    }
    lora = write_lora(tmp_path / "lora.gguf", pairs)
    with pytest.raises(GateFailed, match=r"Q4_K_S would keep .* is stored in that type") as failed:
        merge(base, lora, type="Q4_K_S")
    assert failed.value.exit_code == 5
    assert failed.value.hint is not None
    assert failed.value.hint.startswith("--type Q")
    forced = merge(base, lora, type="Q4_K_S", allow_loss=True)
    before, after = tensors_of(base), tensors_of(made(forced))
    moved = meant = 0.0
    for name, (a, b) in pairs.items():
        change = b.astype(np.float64) @ a
        moved += float(((after[name] - before[name]) * change).sum())
        meant += float((change * change).sum())
    assert forced.survival.share == pytest.approx(moved / meant, abs=1e-3)
    assert moved / meant < 0.2
    kept = merge(base, lora)
    assert kept.type in ("Q5_K_M", "Q6_K", "Q8_0", "F16")
    assert kept.survival.share is not None
    assert 0.8 < kept.survival.share < 1.25


def test_a_large_tuning_is_not_said_to_be_lost(merge: Any, tmp_path: Path) -> None:
    """It stays, and a model's own type is refused all the same."""
    base = tiny_llama(tmp_path / "base.gguf", dtype="Q8_0")
    lora = write_lora(tmp_path / "lora.gguf", {Q: random_pair(1, 256, 256, size=3e-2)})
    with pytest.raises(GateFailed, match=r"this tuning is large, and would keep 100 %") as failed:
        merge(base, lora, type="Q8_0")
    assert "of what was tuned" not in failed.value.message
    assert merge(base, lora, type="Q8_0", allow_loss=True).survival.share > 0.95


def logits(path: Path, *adapters: tuple[Path, float]) -> Any:
    """Logits of a few tokens, by the real llama.cpp."""
    from localllm.engine.adapter import Attached, LoraAdapter, attach
    from localllm.engine.batching import TokenBatch
    from localllm.engine.quality.chunks import Chunk, rows_of
    from localllm.placement import PlanOptions, open_model

    assert TokenBatch
    tokens = tuple(range(60, 92))
    with open_model(path, PlanOptions(n_ctx=256)) as opened:
        if adapters:
            attach(opened.context, [Attached(LoraAdapter(opened.model, p), s) for p, s in adapters])
        chunk = Chunk(1, tokens, 0, tuple(tokens[1:]))
        return np.concatenate([np.array(rows.logits) for rows in rows_of(opened.context, [chunk])])
