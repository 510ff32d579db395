"""The quicker forward pass and loss against transformers' own, numbers and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

import torch

from localllm.finetune.data.rows import RowAt
from localllm.finetune.data.store import Example
from localllm.finetune.scratch.ending import last_losses
from localllm.finetune.scratch.model import begin
from localllm.finetune.scratch.network import network
from localllm.finetune.scratch.recipe import TrainRecipe
from localllm.finetune.scratch.shape import shape_of
from localllm.finetune.training.batches import Pack, pack
from localllm.finetune.training.loss import DenseBlocks, Head

V = 50


def made(kv_heads: int | None = None) -> Any:
    recipe = TrainRecipe(context=64, width=64, heads=2, kv_heads=kv_heads, ff=96)
    module = begin(shape_of(recipe, V, 64, 2), 3)
    with torch.no_grad():  # norms that are not all 1
        for name, p in module.named_parameters():
            p.mul_(4) if p.dim() > 1 else p.copy_(torch.linspace(0.5, 1.5, len(p)))
            assert name
    module.eval()
    return module


def packed(lengths: list[int]) -> Pack:
    draw = np.random.default_rng(1)
    items = []
    for length in lengths:
        ids = draw.integers(0, V, length).astype(np.int32)
        items.append([Example(ids, np.arange(length) > length // 4, RowAt("", 0))])
    return pack(items, range(len(items)))


def by_transformers(module: Any, one: Pack) -> Any:
    """Each segment alone through LlamaForCausalLM, cross-entropy of what counts."""
    logits, begin_at = [], 0
    for length in one.segments:
        ids = one.ids[:, begin_at : begin_at + length]
        logits.append(module(input_ids=ids).logits[0])
        begin_at += length
    return torch.nn.functional.cross_entropy(
        torch.cat(logits)[one.rows], one.targets, reduction="none"
    )


def gradients(module: Any) -> dict[str, Any]:
    found = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    return found


@pytest.mark.parametrize("kv_heads", [None, 1])
@pytest.mark.parametrize("lengths", [[17, 17, 17], [5, 40, 40, 2, 9], [64]])
def test_losses_and_gradients_are_those_of_transformers(
    kv_heads: int | None, lengths: list[int]
) -> None:
    module, one = made(kv_heads), packed(lengths)
    want = by_transformers(module, one)
    want.mean().backward()
    wanted = gradients(module)
    found = network(module, torch.float32).losses(one)
    found.mean().backward()
    assert torch.allclose(found, want, atol=2e-5)
    got = gradients(module)
    for name, value in wanted.items():
        assert torch.allclose(got[name], value, atol=1e-5 + 1e-4 * float(value.abs().max())), name
    with torch.no_grad():
        assert torch.allclose(network(module, torch.float32).losses(one), want, atol=2e-5)


def test_bfloat16_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    module, one = made(), packed([40, 40])
    exact = network(module, torch.float32).losses(one)
    near = network(module, torch.bfloat16).losses(one)
    assert near.dtype == torch.float32
    assert 0 < float((near - exact).abs().mean().detach()) < 0.05


def test_while_it_trains_tokens_see_as_far_as_told() -> None:
    module, one = made(), packed([41, 17])
    far = network(module, torch.float32, reach=lambda: 16)
    whole = network(module, torch.float32).losses(one)
    assert torch.equal(far.losses(one), whole)  # judged: all of it
    module.train()
    short = far.losses(one)
    parts = replace(one, segments=(16, 16, 8, 16))
    assert torch.allclose(short, by_transformers(module, parts), atol=2e-5)
    assert not torch.allclose(short, whole, atol=1e-3)


def test_dropout_only_while_it_trains() -> None:
    module, one = made(), packed([30])
    some = network(module, torch.float32, 0.5)
    assert torch.equal(some.losses(one), network(module, torch.float32).losses(one))
    module.train()
    torch.manual_seed(1)
    first = some.losses(one)
    torch.manual_seed(1)
    assert torch.equal(some.losses(one), first)
    torch.manual_seed(2)
    assert not torch.equal(some.losses(one), first)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_the_loss_is_right_for_any_weight_of_a_token(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.finetune.scratch import ending

    monkeypatch.setattr(ending, "BUFFER_BYTES", 4 * V * 3)  # three tokens at once
    draw = torch.Generator().manual_seed(0)
    for counts in (torch.full((n,), 0.3), torch.rand(n, generator=draw)):
        h = torch.randn(n, 8, generator=draw, requires_grad=True)
        w = torch.randn(V, 8, generator=draw, requires_grad=True)
        targets = torch.randint(0, V, (n,), generator=draw)
        found = last_losses(h, targets, Head(DenseBlocks(w)))
        got = torch.autograd.grad((found * counts).sum(), (h, w))
        plain = torch.nn.functional.cross_entropy(h @ w.t(), targets, reduction="none")
        want = torch.autograd.grad((plain * counts).sum(), (h, w))
        assert torch.allclose(found, plain, atol=1e-5)
        for one, other in zip(got, want, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
