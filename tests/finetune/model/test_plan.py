"""The plan's count of what learns, from the header, against the adapters themselves."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
pytest.importorskip("transformers", reason="the extra `finetune` is not installed")

from localllm.errors import UsageProblem
from localllm.finetune.model import load_causal
from localllm.finetune.plan import adapter_params, base_of
from localllm.finetune.recipe import Recipe
from localllm.finetune.training.adapters import AdapterOptions, attach
from localllm.formats.gguf import read_model
from localllm.formats.hf import sizes_of_gguf
from tests.finetune.model.conftest import Make
from tests.finetune.model.families import TINY


@pytest.mark.parametrize("i", range(len(TINY)), ids=lambda i: f"{TINY[i].arch}-{i}")
@pytest.mark.parametrize("target", ["all", "attention", "mlp", "q_proj", "gate_proj", "c_fc"])
def test_the_plan_counts_what_learns(made: Make, i: int, target: str) -> None:
    path = made(i).path
    loaded = load_causal(path)
    header = read_model(path)
    base = base_of(header, sizes_of_gguf(header), loaded.arch)
    planned = adapter_params(base, Recipe(rank=3, targets=(target,)))
    try:
        attach(loaded.module, AdapterOptions(rank=3, targets=(target,)), 0)
    except UsageProblem:  # no layer of that name
        assert planned == 0
        return
    learns = sum(p.numel() for p in loaded.module.parameters() if p.requires_grad)
    assert planned == learns > 0
