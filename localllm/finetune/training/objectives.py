"""What is minimized, from the loss of each token.

Everything is a sum over a pack divided by a count of the whole step, so that packing, several
processes and gradient accumulation change nothing:

    sft    sum of nll / number of predicted tokens
    dpo    sum over pairs of -log sigmoid(beta ((logp_c - logp_r) - (ref_c - ref_r))) / pairs
           (Rafailov et al. 2023; log-probabilities summed over the answer)
    orpo   sum over pairs of mean_c + lambda * -log sigmoid(log odds_c - log odds_r) / pairs
           (Hong et al. 2024; mean_c and the odds from the mean log-probability of a token)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from localllm.finetune.training.batches import Pack


class Objective(Protocol):
    def count(self, pack: Pack) -> int:
        """What this pack adds to the count that the step's sum is divided by."""

    def total(self, losses: Tensor, pack: Pack) -> tuple[Tensor, Mapping[str, float]]:
        """The pack's sum, from its tokens' losses; and sums of what else is worth showing."""


class Likelihood:
    """Each predicted token counts the same."""

    def count(self, pack: Pack) -> int:
        return pack.n_targets

    def total(self, losses: Tensor, pack: Pack) -> tuple[Tensor, Mapping[str, float]]:
        return losses.sum(), {}


@dataclass
class DirectPreference:
    """DPO. `reference` holds the log-probability of (chosen, rejected) before tuning, by item."""

    beta: float
    reference: dict[int, tuple[float, float]] = field(default_factory=dict)

    def count(self, pack: Pack) -> int:
        return pack.n_items

    def total(self, losses: Tensor, pack: Pack) -> tuple[Tensor, Mapping[str, float]]:
        chosen, rejected = _pairs(-sums(losses, pack))
        known = torch.tensor([self.reference[n] for n in pack.items]).to(losses.device)
        margin = (chosen - known[:, 0]) - (rejected - known[:, 1])
        found = -logsigmoid(self.beta * margin).sum()
        return found, _seen(margin, self.beta)


@dataclass
class OddsRatio:
    """ORPO. `weight` is the paper's lambda."""

    weight: float

    def count(self, pack: Pack) -> int:
        return pack.n_items

    def total(self, losses: Tensor, pack: Pack) -> tuple[Tensor, Mapping[str, float]]:
        counts = sums(torch.ones_like(losses), pack).clamp_min(1)
        chosen, rejected = _pairs(-sums(losses, pack) / counts)
        ratio = _log_odds(chosen) - _log_odds(rejected)
        found = (-chosen + self.weight * softplus(-ratio)).sum()
        return found, _seen(ratio)


def sums(losses: Tensor, pack: Pack) -> Tensor:
    """The losses of each sequence, summed [sequences]."""
    zero = torch.zeros(len(pack.segments), dtype=losses.dtype, device=losses.device)
    return zero.index_add(0, pack.owners.to(losses.device), losses)


def _seen(margin: Tensor, scale: float = 1.0) -> dict[str, float]:
    """How many pairs are the right way round, and by how much, summed."""
    known = margin.detach()
    return {"accuracy": float((known > 0).sum()), "margin": float(known.sum()) * scale}


def _pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    return values[0::2], values[1::2]


def _log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)). A p of 1 would be infinite: it is bounded just below."""
    bounded = logp.clamp_max(-1e-6)
    return bounded - torch.log(-torch.expm1(bounded))
