"""torch's dequantizers, which run on any device, against ggml's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
pytest.importorskip("transformers", reason="the extra `finetune` is not installed")

import torch

from localllm.engine.ggml_types import row_types
from localllm.finetune.model import dequantize, load_causal
from localllm.finetune.model.dequantize import _BLOCKS, _PLAIN
from localllm.finetune.model.quantized import DeviceRows, QuantizedLinear
from localllm.finetune.model.stored import Stored
from localllm.finetune.model.torch_types import TYPES
from localllm.formats.hf import Layout
from tests.finetune.model.compare import tokens, torch_logits
from tests.finetune.model.families import TINY, gguf_of, hf_model

CPU = torch.device("cpu")
WIDTH = 768  # of rows: three blocks of 256


def stored(name: str, n_rows: int = 9, seed: int = 0) -> Stored:
    """Rows of very different sizes, as ggml packs them."""
    kind, draw = row_types()[name], np.random.default_rng(seed)
    sizes = np.exp(3 * draw.standard_normal((n_rows, 1)))
    numbers = (draw.standard_normal((n_rows, WIDTH)) * sizes).astype(np.float32)
    weights = np.ones(WIDTH, dtype=np.float32) if name not in _PLAIN else None
    return Stored(name, numbers.shape, kind, kind.quantize(numbers, weights))


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_type_is_what_ggml_makes_of_it(name: str) -> None:
    one = stored(name)
    found = dequantize.dequantize(torch.from_numpy(one.data), one.type.name, WIDTH)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), one.numbers(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", sorted(TYPES - _PLAIN.keys()))
def test_every_bit_of_a_block_is_read_as_ggml_reads_it(name: str) -> None:
    """Any bytes are quants and scales; only the float16 in them are kept from being no numbers."""
    kind, draw = row_types()[name], np.random.default_rng(1)
    data = draw.integers(0, 256, (64, kind.row_bytes(WIDTH)), dtype=np.uint8)
    blocks = data.reshape(-1, kind.block_bytes)
    at = {"q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,)}.get(name, (0,))
    at = (0, 2) if name in ("q4_1", "q5_1", "q4_k", "q5_k") else at
    for place in at:
        halves = draw.standard_normal(len(blocks)).astype(np.float16)
        blocks[:, place : place + 2] = halves.view(np.uint8).reshape(-1, 2)
    one = Stored(name, (64, WIDTH), kind, data)
    found = dequantize.dequantize(torch.from_numpy(data), kind.name, WIDTH)
    want = one.numbers()
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


def test_the_list_without_torch_is_what_torch_can_read() -> None:
    assert {*_BLOCKS, *_PLAIN} == TYPES
    assert {"q4_0", "q8_0", "q4_k", "q5_k", "q6_k"} <= TYPES
    for name, (size, _) in _BLOCKS.items():
        assert row_types()[name].block_bytes == size


def test_rows_in_pairs_lie_in_the_models_order() -> None:
    """llama's q and k: their rows are in pairs in the file, and halves in transformers."""
    one, layout = stored("q8_0", n_rows=8), Layout(2)
    rows, want = DeviceRows(one, layout, CPU), torch.from_numpy(layout.to_hf(one.numbers()))
    assert layout.row_order(8) is not None
    assert torch.equal(rows.take(0, 8), want)
    assert torch.equal(rows.take(3, 6), want[3:6])
    assert torch.equal(rows.pick(torch.tensor([7, 0, 7])), want[[7, 0, 7]])
    assert rows.borrow(0, 2, torch.empty(0, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("i", "name"), [(1, "Q8_0"), (9, "Q4_0")])
def test_a_model_on_a_devices_rows_computes_as_on_the_files(
    tmp_path: Path, i: int, name: str
) -> None:
    """Logits and gradients, rows in pairs and a tied output among them."""
    path = gguf_of(hf_model(TINY[i], seed=i), TINY[i], tmp_path / "m.gguf", name)
    logits, grads = [], []
    for there in (False, True):
        loaded = load_causal(path, frozen="quantized")
        layers = {n: m for n, m in loaded.module.named_modules() if hasattr(m, "rows")}
        slots = {slot.module: slot for slot in loaded.slots if len(slot.shape) == 2}
        slots.setdefault("lm_head", slots["model.embed_tokens"])
        for n, layer in layers.items() if there else ():
            slot = slots[n]
            layer.rows = DeviceRows(loaded.weights[slot.gguf], slot.layout, CPU)
        assert sum(isinstance(m, QuantizedLinear) for m in layers.values()) > 6
        logits.append(torch_logits(loaded.module, tokens(24)))
        hidden = torch.randn(1, 5, 128, generator=torch.Generator().manual_seed(0))
        hidden.requires_grad_(True)
        loaded.module(inputs_embeds=hidden, use_cache=False).logits.square().sum().backward()
        grads.append(hidden.grad)
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-6)
    torch.testing.assert_close(grads[0], grads[1])
