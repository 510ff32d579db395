"""How weights that begin with nothing move: Muon for matrices, AdamW for the rest.

Muon (Jordan et al. 2024) turns the momentum of a matrix between two hidden states into the nearest
one whose singular values are all about 1, so that directions that come seldom are learned as fast
as common ones. Scaled by 0.2 sqrt(longer side) its steps are as large as AdamW's, and one learning
rate fits both (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

# Jordan's coefficients: singular values from about 0 to between 0.7 and 1.2 in five rounds
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5
_MOMENTUM = 0.95
_BETAS, _EPS = (0.9, 0.95), 1e-8
_MATCH = 0.2


class Descent(torch.optim.Optimizer):
    """`matrices` by Muon, `others` by AdamW, `norms` by AdamW without decay; all at one `lr`. The
    rounds of Muon are computed in `dtype`."""

    def __init__(
        self, matrices: Iterable[Tensor], others: Iterable[Tensor], norms: Iterable[Tensor], *,
        lr: float, weight_decay: float, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "is_muon": True, "weight_decay": weight_decay},
            {"params": list(others), "is_muon": False, "weight_decay": weight_decay},
            {"params": list(norms), "is_muon": False, "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step. There is no closure."""
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            if not learning:
                continue
            torch._foreach_mul_(learning, 1.0 - group["lr"] * group["weight_decay"])
            (self._muon if group["is_muon"] else self._adam)(learning, group["lr"])

    def _muon(self, learning: list[Tensor], lr: float) -> None:
        gradients = [p.grad for p in learning if p.grad is not None]
        moved = [self._kept(p, "momentum") for p in learning]
        torch._foreach_lerp_(moved, gradients, 1.0 - _MOMENTUM)
        ahead = torch._foreach_lerp(gradients, moved, _MOMENTUM)
        by_shape: dict[torch.Size, list[int]] = {}
        for i, one in enumerate(learning):
            by_shape.setdefault(one.shape, []).append(i)
        for shape, places in by_shape.items():
            turned = orthogonal(torch.stack([ahead[i] for i in places]), self._dtype)
            turned = turned.to(ahead[places[0]].dtype)
            rate = -lr * _MATCH * max(shape) ** 0.5
            torch._foreach_add_([learning[i] for i in places], list(turned), alpha=rate)

    def _adam(self, learning: list[Tensor], lr: float) -> None:
        gradients = [p.grad for p in learning if p.grad is not None]
        first = [self._kept(p, "mean") for p in learning]
        second = [self._kept(p, "square") for p in learning]
        for p in learning:
            self.state[p]["step"] = self.state[p].get("step", 0) + 1
        step = self.state[learning[0]]["step"]
        torch._foreach_lerp_(first, gradients, 1.0 - _BETAS[0])
        torch._foreach_mul_(second, _BETAS[1])
        torch._foreach_addcmul_(second, gradients, gradients, value=1.0 - _BETAS[1])
        below = torch._foreach_div(second, 1.0 - _BETAS[1] ** step)
        torch._foreach_sqrt_(below)
        torch._foreach_add_(below, _EPS)
        rate = -lr / (1.0 - _BETAS[0] ** step)
        torch._foreach_addcdiv_(learning, first, below, value=rate)

    def _kept(self, parameter: Tensor, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        found: Tensor = state[name]
        return found


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[n, rows, columns] with singular values near 1 and the same singular vectors, by
    Newton-Schulz rounds in `dtype`."""
    x = matrices.to(dtype)
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.transpose(1, 2)
    x = x / (torch.linalg.matrix_norm(x.float(), keepdim=True) + 1e-7).to(dtype)
    for _ in range(_ROUNDS):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return x.transpose(1, 2) if is_tall else x


def descent_of(
    named: Mapping[str, Tensor], *, lr: float, weight_decay: float, dtype: torch.dtype
) -> Descent:
    """For a Llama's parameters: the embedding, which is also the output, is no matrix between
    hidden states."""
    embeddings = [p for name, p in named.items() if "embed_tokens" in name or "lm_head" in name]
    inside = [p for p in named.values() if p.dim() > 1 and all(p is not e for e in embeddings)]
    norms = [p for p in named.values() if p.dim() <= 1]
    return Descent(inside, embeddings, norms, lr=lr, weight_decay=weight_decay, dtype=dtype)
