"""Losses scaled up while they are differentiated in float16, whose smallest numbers are not small.

The scale is halved when gradients overflow, and the same step is computed once more: no step is
left out, so that a run has the steps that were asked for. It is doubled after many steps without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

_BEGIN, _MOST = 2.0**16, 2.0**24
_GROWS_AFTER = 1000  # steps


@dataclass
class LossScale:
    """`value` multiplies the loss; `good` counts steps since it last changed. Powers of two: what
    is divided again is exactly what it was."""

    value: float = 1.0
    good: int = 0

    @classmethod
    def of(cls, precision: str) -> LossScale:
        """For what is computed in; 1 where nothing needs it."""
        return cls(_BEGIN if precision == "f16" else 1.0)

    @property
    def is_on(self) -> bool:
        return self.value > 1.0

    def undo(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Gradients as they are of the loss itself."""
        if self.is_on:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(1 / self.value)

    def shrink(self) -> bool:
        """After gradients that are no numbers: halve it. False where that is not the reason."""
        if not self.is_on:
            return False
        self.value, self.good = self.value / 2, 0
        return True

    def went_well(self) -> None:
        """After a step."""
        if not self.is_on:
            return
        self.good += 1
        if self.good >= _GROWS_AFTER and self.value < _MOST:
            self.value, self.good = self.value * 2, 0

    def state(self) -> dict[str, float]:
        return {"value": self.value, "good": self.good}

    def load(self, state: Mapping[str, float]) -> None:
        """Go on as a checkpoint says, where it was computed alike."""
        if self.is_on and state:
            self.value, self.good = max(2.0, float(state["value"])), int(state["good"])
