"""Low-rank adapters on the linear layers of a frozen model: LoRA, rsLoRA, DoRA.

    y = W x + (alpha / rank) B (A x)            LoRA    (Hu et al. 2021)
    y = W x + (alpha / sqrt(rank)) B (A x)      rsLoRA  (Kalajdzievski 2023)
    y = m / ||W + s B A||_row * (the above)     DoRA    (Liu et al. 2024; the norm is a constant
                                                in the gradient, as their section 4.3 proposes)

Own layers, not peft's: these add into the base's result instead of making three more tensors of
its size, work on any layer that has `in_features` and `out_features` (quantized ones too), and
are exactly what a GGUF adapter holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from localllm.errors import UsageProblem
from localllm.finetune.training.targets import meant


@dataclass(frozen=True)
class AdapterOptions:
    """`alpha` None is twice the rank. `targets` are layer names (q_proj) or groups: all,
    attention, mlp."""

    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = ("all",)
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False

    @property
    def own_alpha(self) -> float:
        return 2.0 * self.rank if self.alpha is None else self.alpha

    @property
    def scale(self) -> float:
        return self.own_alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def llama_alpha(self) -> float:
        """The alpha which makes llama.cpp's `alpha / rank` this scale."""
        return self.scale * self.rank


class AdaptedLinear(nn.Module):
    """A frozen linear layer and what is learned beside it. `a` is [rank, in], `b` [out, rank]."""

    def __init__(self, base: Any, options: AdapterOptions, generator: torch.Generator) -> None:
        super().__init__()
        self.base_layer = base
        n_in, n_out, rank = base.in_features, base.out_features, options.rank
        bound = 1 / math.sqrt(n_in)  # kaiming_uniform(a=sqrt(5)), as peft begins
        # drawn on the CPU, so that they begin alike whatever computes
        start = torch.empty(rank, n_in).uniform_(-bound, bound, generator=generator)
        device = _device_of(base)
        self.a = nn.Parameter(start.to(device))
        self.b = nn.Parameter(torch.zeros(n_out, rank, device=device))
        self.scale = options.scale
        self.dropout = options.dropout
        self.magnitude: nn.Parameter | None = None
        if options.dora:
            norms2 = _row_norms2(base)
            self.register_buffer("row_norms2", norms2, persistent=False)
            self.magnitude = nn.Parameter(norms2.sqrt())
            self._gain: Tensor | None = None

    @property
    def in_features(self) -> int:
        return int(self.base_layer.in_features)

    @property
    def out_features(self) -> int:
        return int(self.base_layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y: Tensor = self.base_layer(flat)
        fed = nn.functional.dropout(flat, self.dropout, self.training) if self.dropout else flat
        low = fed.to(y.dtype) @ self.a.to(y.dtype).t()
        # into the base's own result, which no gradient needs
        y = y.addmm_(low, self.b.to(y.dtype).t(), alpha=self.scale)
        if self.magnitude is not None:
            y = self._rescaled(y, self.magnitude)
        return y.view(*x.shape[:-1], -1)

    def _rescaled(self, y: Tensor, magnitude: Tensor) -> Tensor:
        gain = (magnitude / self._norm()).to(y.dtype)
        bias = getattr(self.base_layer, "bias", None)
        return y * gain if bias is None else (y - bias) * gain + bias

    def _norm(self) -> Tensor:
        """||W + s B A|| of each row [out]: from W's own norms and W A^T, never from W + s B A."""
        if self._gain is None:
            with torch.no_grad():
                cross = self.base_layer(self.a.detach())  # [rank, out]: W A^T, transposed
                if getattr(self.base_layer, "bias", None) is not None:
                    cross = cross - self.base_layer.bias
                gram = self.a @ self.a.t()
                squares = self.get_buffer("row_norms2") + 2 * self.scale * (self.b * cross.t()).sum(
                    1
                )
                squares += self.scale**2 * ((self.b @ gram) * self.b).sum(1)
                self._gain = squares.clamp_min(1e-12).sqrt()
        return self._gain

    def forget_norm(self) -> None:
        """After `a` or `b` changed."""
        self._gain = None


def _device_of(base: Any) -> torch.device:
    """Where a layer computes; of one that is empty yet (to be parted) the CPU."""
    rows = getattr(base, "rows", None)
    held = getattr(rows, "device", None) if rows is not None else base.weight.device
    return held if isinstance(held, torch.device) and held.type != "meta" else torch.device("cpu")


def _row_norms2(base: Any) -> Tensor:
    """Squared norm of each output's weights [out], from the layer's answers to unit vectors
    where its weights are not there as a matrix."""
    weight = getattr(base, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.dim() == 2:
        return weight.detach().float().square().sum(1)
    device = _device_of(base)
    total = torch.zeros(base.out_features, device=device)
    bias = getattr(base, "bias", None)
    eye = torch.eye(base.in_features, device=device)
    with torch.no_grad():
        for rows in torch.split(eye, 256):
            answers = base(rows)
            total += (answers if bias is None else answers - bias).square().sum(0)
    return total


@dataclass(frozen=True)
class Adapters:
    """The adapters of a model, by the path of the layer each one is on."""

    layers: Mapping[str, AdaptedLinear]
    options: AdapterOptions

    def changed(self) -> None:
        for layer in self.layers.values():
            if layer.magnitude is not None:
                layer.forget_norm()


def attach(module: nn.Module, options: AdapterOptions, seed: int) -> Adapters:
    """Put adapters on the layers that `options` name and freeze everything else.

    `seed` decides the adapters' beginning, layer by layer. Raises UsageProblem where a name
    is on no layer.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    wanted = target_names(module, options.targets)
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name in wanted:
        parent, _, last = name.rpartition(".")
        holder = module.get_submodule(parent)
        layer = AdaptedLinear(getattr(holder, last), options, generator)
        setattr(holder, last, layer)
        layers[name] = layer
    return Adapters(layers, options)


def target_names(module: nn.Module, targets: Sequence[str]) -> tuple[str, ...]:
    """The paths of the linear layers that `targets` mean, in the model's order.

    A part that the model computes in one fused layer (Phi 3's q, k and v) means that layer.
    Raises UsageProblem.
    """
    linear = [
        name for name, one in module.named_modules() if _is_linear(one) and ".layers." in name
    ]
    known = {name.rpartition(".")[2] for name in linear}
    chosen: set[str] = set()
    for target in targets:
        parts = meant(target, known)
        if not parts:
            raise UsageProblem(
                f"the model has no layer {target!r} to tune",
                f"--targets all, or of {', '.join(sorted(known))}",
            )
        chosen |= parts
    return tuple(name for name in linear if name.rpartition(".")[2] in chosen)


def _is_linear(module: nn.Module) -> bool:
    features = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return all(isinstance(one, int) for one in features) and not isinstance(module, AdaptedLinear)
