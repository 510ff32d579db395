"""The published formulas in float64, on whole arrays: what `methods` is compared with.

They share no code with it: no chunks, no passes, sorting where it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def linear(tensors: Sequence[Any], weights: Sequence[float], *, normalize: bool = True) -> Any:
    total = sum(w * np.asarray(t, np.float64) for w, t in zip(weights, tensors, strict=True))
    return total / sum(weights) if normalize else total


def slerp(a: Any, b: Any, t: float) -> Any:
    """Shoemake 1985; a straight line where the angle is all but nothing."""
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    cosine = x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
    if abs(cosine) > 0.9995:
        return (1 - t) * np.asarray(a, np.float64) + t * np.asarray(b, np.float64)
    angle = np.arccos(cosine)
    own, other = np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)
    return own * np.asarray(a, np.float64) + other * np.asarray(b, np.float64)


def task_arithmetic(base: Any, tensors: Sequence[Any], weights: Sequence[float]) -> Any:
    """Ilharco et al. 2023."""
    base = np.asarray(base, np.float64)
    return base + sum(
        w * (np.asarray(t, np.float64) - base) for w, t in zip(weights, tensors, strict=True)
    )


def trimmed(difference: Any, density: float) -> Any:
    """The first step of TIES: the largest magnitudes stay."""
    k = int(density * difference.size)
    if k == 0:
        return np.zeros_like(difference)
    threshold = np.sort(np.abs(difference), axis=None)[-k]
    return np.where(np.abs(difference) >= threshold, difference, 0)


def ties(
    base: Any,
    tensors: Sequence[Any],
    weights: Sequence[float],
    densities: Sequence[float],
    *,
    normalize: bool = True,
) -> Any:
    """Yadav et al. 2023: trim, elect, and the mean of those that agree."""
    differences = [
        w * trimmed((t - base).astype(np.float64), d)
        for t, w, d in zip(tensors, weights, densities, strict=True)
    ]
    return elected(base, differences, weights, normalize=normalize)


def elected(
    base: Any, differences: Sequence[Any], weights: Sequence[float], *, normalize: bool
) -> Any:
    stack = np.stack(differences)
    sign = np.where(stack.sum(axis=0) >= 0, 1, -1)
    agrees = np.sign(stack) == sign
    merged = (stack * agrees).sum(axis=0)
    if normalize:
        shares = np.tensordot(np.asarray(weights, np.float64), agrees.astype(np.float64), axes=1)
        merged = merged / np.where(shares == 0, 1, shares)
    return np.asarray(base, np.float64) + merged
