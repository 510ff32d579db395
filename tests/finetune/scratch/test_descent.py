"""Muon and AdamW in one optimizer, against what they are said to be."""

from __future__ import annotations

import copy
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

import torch

from localllm.finetune.scratch.descent import Descent, descent_of, orthogonal


def moved(optimizer: Any, parameters: list[Any], steps: range) -> None:
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=draw)
        optimizer.step()


def parameters() -> list[Any]:
    draw = torch.Generator().manual_seed(9)
    shapes = [(16, 16), (16, 16), (48, 16), (16, 48), (30, 16), (16,)]
    return [torch.nn.Parameter(torch.randn(s, generator=draw)) for s in shapes]


def descent(held: list[Any]) -> Descent:
    return Descent(held[:4], held[4:5], held[5:], lr=1e-2, weight_decay=0.1)


@pytest.mark.parametrize("shape", [(2, 16, 16), (3, 40, 16), (1, 16, 40)])
def test_singular_values_get_near_one_and_vectors_stay(shape: tuple[int, ...]) -> None:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonal(made)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.4 and float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(made, full_matrices=False)
    exact = u @ v
    for one, other in zip(found, exact, strict=True):
        assert float((one * other).sum() / one.norm() / other.norm()) > 0.97


def test_matrices_go_as_torchs_own_muon_and_the_rest_as_adamw() -> None:
    held, other = parameters(), parameters()
    moved(descent(held), held, range(5))
    muon = torch.optim.Muon(other[:4], lr=1e-2, weight_decay=0.1, momentum=0.95,
                            adjust_lr_fn="match_rms_adamw")  # fmt: skip
    adam = torch.optim.AdamW(
        [{"params": other[4:5], "weight_decay": 0.1}, {"params": other[5:], "weight_decay": 0.0}],
        lr=1e-2, betas=(0.9, 0.95), eps=1e-8,
    )  # fmt: skip
    for step in range(5):
        moved(muon, other[:4] + other[4:], range(step, step + 1))
        adam.step()
    begun = parameters()
    for mine, theirs, first in zip(held[:4], other[:4], begun, strict=False):
        # theirs rounds to bfloat16 on the way
        apart = float((mine - theirs).detach().norm() / (theirs - first).detach().norm())
        assert apart < 0.05
    for mine, theirs in zip(held[4:], other[4:], strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_a_state_that_was_kept_goes_on_the_same() -> None:
    held = parameters()
    first = descent(held)
    moved(first, held, range(3))
    kept, weights = copy.deepcopy(first.state_dict()), [p.detach().clone() for p in held]
    moved(first, held, range(3, 6))
    again = [torch.nn.Parameter(w) for w in weights]
    second = descent(again)
    second.load_state_dict(kept)
    moved(second, again, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(held, again, strict=True))


def test_of_a_llama_the_embedding_is_no_matrix_between_hidden_states() -> None:
    names = {
        "model.embed_tokens.weight": torch.nn.Parameter(torch.ones(9, 4)),
        "model.layers.0.self_attn.q_proj.weight": torch.nn.Parameter(torch.ones(4, 4)),
        "model.norm.weight": torch.nn.Parameter(torch.ones(4)),
    }
    made = descent_of(names, lr=0.1, weight_decay=0.5, dtype=torch.float32)
    groups = [(g["is_muon"], g["weight_decay"], len(g["params"])) for g in made.param_groups]
    assert groups == [(True, 0.5, 1), (False, 0.5, 1), (False, 0.0, 1)]
    assert made.param_groups[1]["params"][0] is names["model.embed_tokens.weight"]
    for p in names.values():
        p.grad = torch.zeros_like(p)
    made.step()  # nothing pulls: matrices decay, norms stay
    assert torch.allclose(names["model.layers.0.self_attn.q_proj.weight"], torch.tensor(0.95))
    assert torch.equal(names["model.norm.weight"], torch.ones(4))
