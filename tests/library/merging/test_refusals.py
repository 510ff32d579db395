"""Adapters that are broken, foreign or meaningless: one clear error, and nothing is made."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.errors import DamagedFile, LocalLLMError, UsageProblem
from localllm.library.merging.adapters import merge_adapters
from localllm.library.merging.result import AdapterRequest
from localllm.registry import Registry
from localllm.ui.progress import Silent
from tests.library.merging.adapters import random_pair, write_lora
from tests.library.merging.reading import tensors_of
from tests.support.gguf_writer import Arr
from tests.support.tiny_models import llama_model, split, tiny_gemma3, tiny_llama, tiny_qwen3moe

Q = "blk.0.attn_q.weight"
Merge = Callable[..., Any]


@pytest.fixture
def merge(registry: Registry) -> Merge:
    def run(base: Path, *adapters: Any, **options: Any) -> Any:
        given = [(a, 1.0) if isinstance(a, Path) else a for a in adapters]
        request = AdapterRequest(**{"type": "F32", **options})
        return merge_adapters(base, given, request, registry, Silent())

    return run


def nothing_left(registry: Registry) -> bool:
    return registry.models() == () and not [
        p for p in registry.home.rglob("*") if p.is_file() and p.suffix in (".gguf", ".part")
    ]


def infinite(values: Any) -> Any:
    values[3, 1] = np.inf
    return values


A, B = random_pair(1, 256, 256)
NAN = A.copy()
NAN[1, 7] = np.nan


@pytest.mark.parametrize(
    ("pairs", "options", "error", "said"),
    [
        ({Q: (NAN, B)}, {}, DamagedFile, "blk.0.attn_q.weight.lora_a holds numbers that are not"),
        ({Q: (A, infinite(B.copy()))}, {}, DamagedFile, "lora_b holds numbers that are not finite"),
        ({Q: (A, B[:, :3])}, {}, DamagedFile, "lora_a of .* has rank 4, its lora_b 3"),
        (
            {Q: (A[:, :128], B)},
            {},
            UsageProblem,
            "its blk.0.attn_q.weight is 128x256, that of .* 256x256",
        ),
        ({"blk.9.attn_q.weight": (A, B)}, {}, UsageProblem, "changes blk.9.attn_q.weight, which"),
        ({Q: (A, B)}, {"arch": "qwen2"}, UsageProblem, "is of architecture qwen2, .* of llama"),
        ({Q: (A, B)}, {"alpha": float("nan")}, DamagedFile, "its alpha is nan"),
        ({Q: (A, B)}, {"metadata": {"adapter.type": "control"}}, UsageProblem, "of type 'control'"),
        (
            {Q: (A, B)},
            {"metadata": {"adapter.alora.invocation_tokens": Arr("u32", [1])}},
            UsageProblem,
            "merged it would always act",
        ),
        ({Q: (A, 0 * B)}, {}, UsageProblem, "nothing would change"),
    ],
)
def test_broken_and_foreign_adapters(
    merge: Merge,
    registry: Registry,
    tmp_path: Path,
    pairs: Any,
    options: Any,
    error: type[LocalLLMError],
    said: str,
) -> None:
    base = tiny_llama(tmp_path / "base.gguf")
    lora = write_lora(tmp_path / "lora.gguf", pairs, **options)
    with pytest.raises(error, match=said):
        merge(base, lora)
    assert nothing_left(registry)


def test_one_half_alone_and_what_is_no_lora(merge: Merge, tmp_path: Path) -> None:
    from tests.support.tiny_builder import TinyModel

    base = tiny_llama(tmp_path / "base.gguf")
    keys = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    for name, said in (
        (f"{Q}.lora_a", "has its lora_a alone"),
        ("extra.weight", "no part of a LoRA"),
        ("output_norm.weight", "changes no tensor"),
    ):
        model = TinyModel(keys)
        model.add(name, A, "F32")
        with pytest.raises(DamagedFile, match=said):
            merge(base, model.write(tmp_path / "half.gguf"))
    with pytest.raises(DamagedFile, match="is no LoRA adapter but a model"):
        merge(base, tiny_llama(tmp_path / "model.gguf", seed=3))


def test_cut_short_and_lying_headers(merge: Merge, registry: Registry, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base.gguf")
    lora = write_lora(tmp_path / "lora.gguf", {Q: (A, B)})
    content = lora.read_bytes()
    for bad in (
        content[:-100],
        content[:40],
        content[:8] + b"\xff" * 16 + content[24:],
        content.replace(struct.pack("<QQ", 256, 4), struct.pack("<QQ", 1 << 62, 4), 1),
    ):
        lora.write_bytes(bad)
        with pytest.raises(DamagedFile):
            merge(base, lora)
    assert nothing_left(registry)


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (0.0, "nothing would change"),
        (float("nan"), "means nothing"),
        (float("inf"), "means nothing"),
        (1e38, "the scale is too large"),
        (1e300, "the scale is too large"),
    ],
)
def test_scales_that_mean_nothing(
    merge: Merge, registry: Registry, tmp_path: Path, scale: float, said: str
) -> None:
    base = tiny_llama(tmp_path / "base.gguf")
    lora = write_lora(tmp_path / "lora.gguf", {Q: (A, B)}, alpha=64.0)
    with pytest.raises(UsageProblem, match=said):
        merge(base, (lora, scale))
    assert nothing_left(registry)


def test_more_than_a_type_holds_and_the_same_adapter_twice(merge: Merge, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base.gguf")
    lora = write_lora(tmp_path / "lora.gguf", {Q: (A, B)})
    with pytest.raises(UsageProblem, match=r"more than f16 holds"):
        merge(base, (lora, 1e7), type="F16")
    with pytest.raises(UsageProblem, match="given twice"):
        merge(base, lora, (tmp_path / "." / "lora.gguf", 2.0))
    with pytest.raises(UsageProblem, match="no quantization"):
        merge(base, lora, type="Q4_Z")
    with pytest.raises(UsageProblem, match="COPY"):
        merge(base, lora, type="COPY")
    with pytest.raises(UsageProblem, match="importance matrix"):
        merge(base, lora, type="IQ2_XXS")


def test_an_opposite_adapter_changes_nothing_twice(merge: Merge, tmp_path: Path) -> None:
    """Not every nothing is visible beforehand: what cancels is merged, and leaves the base."""
    base = tiny_llama(tmp_path / "base.gguf", dtype="F32")
    lora = write_lora(tmp_path / "a.gguf", {Q: (A, B)})
    other = write_lora(tmp_path / "b.gguf", {Q: (A, -B)})
    path = merge(base, lora, other, allow_loss=True).model.path
    before, after = tensors_of(base), tensors_of(path)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_norms_that_llama_cpp_passes_over(merge: Merge, tmp_path: Path) -> None:
    from tests.support.tiny_builder import TinyModel

    base = tiny_llama(tmp_path / "base.gguf")
    keys = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    model = TinyModel(keys)
    model.add(f"{Q}.lora_a", A, "F32")
    model.add(f"{Q}.lora_b", B, "F32")
    model.norm("blk.0.attn_norm.weight", 256)
    made = merge(base, model.write(tmp_path / "lora.gguf"))
    assert made.ignored == ("blk.0.attn_norm.weight",)


def test_the_embedding_and_a_tied_output(merge: Merge, tmp_path: Path) -> None:
    """A LoRA of the embedding leaves the output alone, also where the base has one tensor for
    both; llama.cpp runs the result."""
    base = tiny_gemma3(tmp_path / "base.gguf", dtype="F32")
    tensors = tensors_of(base)
    n_vocab, width = tensors["token_embd.weight"].shape
    assert "output.weight" not in tensors
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((n_vocab, 4)).astype(np.float32)
    columns = (rng.standard_normal((width, 4)) * 0.1).astype(np.float32)
    lora = write_lora(tmp_path / "e.gguf", {"token_embd.weight": (rows, columns)}, arch="gemma3")
    made = merge(base, (lora, 0.5))
    assert made.untied
    after = tensors_of(made.model.path)
    change = 0.5 * rows.astype(np.float64) @ columns.T
    np.testing.assert_allclose(
        after["token_embd.weight"], tensors["token_embd.weight"] + change, atol=1e-5
    )
    np.testing.assert_array_equal(after["output.weight"], tensors["token_embd.weight"])
    head = write_lora(
        tmp_path / "o.gguf", {"output.weight": random_pair(4, width, n_vocab)}, arch="gemma3"
    )
    after = tensors_of(merge(base, head).model.path)
    a, b = random_pair(4, width, n_vocab)
    np.testing.assert_array_equal(after["token_embd.weight"], tensors["token_embd.weight"])
    np.testing.assert_allclose(
        after["output.weight"], tensors["token_embd.weight"] + b @ a, atol=1e-5
    )


def test_experts(merge: Merge, tmp_path: Path) -> None:
    base = tiny_qwen3moe(tmp_path / "moe.gguf", dtype="F32")
    name = "blk.0.ffn_up_exps.weight"
    before = tensors_of(base)
    n, rows, columns = before[name].shape
    rng = np.random.default_rng(1)
    a = rng.standard_normal((n, 3, columns)).astype(np.float32)
    b = (rng.standard_normal((n, rows, 3)) * 0.1).astype(np.float32)
    lora = write_lora(tmp_path / "lora.gguf", {name: (a, b)}, arch="qwen3moe", alpha=6.0)
    after = tensors_of(merge(base, lora).model.path)
    expected = before[name] + 2.0 * np.einsum("eor,eri->eoi", b.astype(np.float64), a)
    np.testing.assert_allclose(after[name], expected, atol=1e-5)


def test_a_split_base(merge: Merge, tmp_path: Path) -> None:
    parts = split(llama_model, tmp_path, "big", n_shards=3, seed=1, dtype="F32")
    lora = write_lora(tmp_path / "lora.gguf", {Q: (A, B)})
    after = tensors_of(merge(parts[0], lora).model.path)
    whole = tensors_of(tiny_llama(tmp_path / "whole.gguf", seed=1, dtype="F32"))
    assert set(after) == set(whole)
    np.testing.assert_allclose(after[Q], whole[Q] + B @ A, atol=1e-5)
