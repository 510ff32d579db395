"""Frozen layers in bitsandbytes' NF4, on the CPU, where its kernels run too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
pytest.importorskip("transformers", reason="the extra `finetune` is not installed")
pytest.importorskip("bitsandbytes", reason="the extra `nf4` is not installed: no bitsandbytes")

import torch

from localllm.finetune.model import load_causal
from localllm.finetune.model.nf4 import Nf4Rows
from localllm.finetune.training.adapters import AdapterOptions, attach
from localllm.finetune.training.batches import pack
from localllm.finetune.training.forward import scorer
from tests.finetune.model.conftest import Make
from tests.finetune.tiny_torch import rows

# the 16 values of the paper's appendix E
LEVELS = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
])  # fmt: skip


def test_each_number_is_the_nearest_of_sixteen(made: Make) -> None:
    dense, kept = load_causal(made(9).path), load_causal(made(9).path, frozen="nf4")
    name = "model.layers.1.mlp.down_proj"
    layer = kept.module.get_submodule(name)
    assert isinstance(layer.rows, Nf4Rows)
    want = dense.module.get_submodule(name).weight.detach().numpy().reshape(-1, 64)
    scale = np.abs(want).max(axis=1, keepdims=True)
    nearest = LEVELS[np.abs(want[:, :, None] / scale[:, :, None] - LEVELS).argmin(-1)] * scale
    # scales are packed too, in 8 bits around their mean
    spread = np.abs(scale - scale.mean()).max()
    np.testing.assert_allclose(
        layer.weight.numpy().reshape(-1, 64), nearest, atol=float(spread) / 64
    )
    assert layer.rows.packed.numel() * layer.rows.packed.element_size() == want.size // 2
    embedding = kept.module.get_input_embeddings()
    assert not isinstance(embedding.rows, Nf4Rows)  # as precise as the file


def test_an_adapter_learns_on_it(made: Make, tmp_path: Path) -> None:
    loaded = load_causal(made(9).path, frozen="nf4")
    adapters = attach(loaded.module, AdapterOptions(rank=4), 0)
    score, sequences = scorer(loaded.module), rows(6)
    batch = pack([[one] for one in sequences], range(6))
    learned = [p for p in loaded.module.parameters() if p.requires_grad]
    assert len(learned) == 2 * len(adapters.layers)
    optimizer, losses = torch.optim.AdamW(learned, lr=1e-2), []
    for _ in range(5):
        loss = score.losses(batch).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05
    # beside the same model as numbers it begins close
    exact = load_causal(made(9).path)
    near = scorer(exact.module).losses(batch).mean().item()
    assert losses[0] == pytest.approx(near, rel=0.2)
