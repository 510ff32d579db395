"""The learning rate at each step."""

from __future__ import annotations

import math
from typing import Literal, get_args

Shape = Literal["cosine", "linear", "constant"]
SHAPES: tuple[str, ...] = get_args(Shape)


def learning_rate(
    step: int, n_steps: int, peak: float, shape: Shape, warmup_steps: int, floor: float = 0.0
) -> float:
    """For the step numbered from 0: a straight rise over `warmup_steps`, then `peak` down to
    `floor * peak` at the last one (a constant stays).

    The first step already learns: its rate is peak / (warmup_steps + 1), never 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if shape == "constant":
        return peak
    left = max(1, n_steps - warmup_steps)
    done = min(1.0, (step - warmup_steps) / left)
    falling = 1.0 - done if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return peak * (floor + (1.0 - floor) * falling)
