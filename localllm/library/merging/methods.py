"""The arithmetic of merging, on one tensor of each model.

    linear           weighted mean (model soups, Wortsman et al. 2022, arXiv:2203.05482)
    slerp            along the great circle between two (Shoemake 1985, "Animating rotation with
                     quaternion curves"), the whole tensor as one vector
    task_arithmetic  base + sum of weighted differences (Ilharco et al. 2023, arXiv:2212.04089)
    ties             of each difference the largest `density`; a sign elected for each weight by
                     the weighted sum; the mean of those that agree (Yadav et al. 2023,
                     arXiv:2306.01708)
    dare_ties        of each difference a random `density`, scaled up by 1 / density, then the
    dare_linear      election of ties, or plain sums (Yu et al. 2024, arXiv:2311.03099)
    passthrough      one model's tensor, times `scale` if given

Parameters and defaults are mergekit's, so that its configurations mean the same. Everything is
computed in float32, a few rows at a time; what needs the whole tensor (the angle of slerp, the
threshold of ties) is found in passes of its own over it (`Prepared`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from localllm.errors import UsageProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Method = Literal[
    "linear", "slerp", "task_arithmetic", "ties", "dare_ties", "dare_linear", "passthrough"
]
WITH_BASE = ("slerp", "task_arithmetic", "ties", "dare_ties", "dare_linear")
_DIFFERENCES = ("task_arithmetic", "ties", "dare_ties", "dare_linear")
_COLINEAR = 0.9995  # of the cosine, from where on slerp is a straight line (mergekit's too)
_MASK_BLOCK = 1 << 16


@dataclass(frozen=True)
class Recipe:
    """What is done to one tensor. `base` is the base's place among the models (None: without);
    lists have one number a model, that of the base unused."""

    method: Method
    base: int | None = None
    weights: tuple[float, ...] = ()
    densities: tuple[float, ...] = ()
    t: float = 0.0
    scale: float | None = None
    normalize: bool = False
    rescale: bool = True
    factor: float = 1.0  # mergekit's lambda: on the sum of the differences
    seed: int = 0
    tensor: str = ""  # the result's name: random masks depend on it


@dataclass(frozen=True)
class Prepared:
    """What was found in passes over the whole tensor: the factors of both models (slerp), or the
    least magnitude that each model's difference keeps (ties)."""

    factors: tuple[float, float] = (0.0, 0.0)
    thresholds: tuple[float, ...] = field(default=())


def prepare(
    recipe: Recipe, parts: Callable[[], Iterable[Sequence[NDArray[np.float32]]]]
) -> Prepared:
    """`parts()` runs over the tensor anew: at each step, the same rows of every model."""
    if recipe.method == "slerp":
        return Prepared(factors=_great_circle(recipe, parts()))
    if recipe.method == "ties" and any(density < 1 for density in recipe.densities):
        return Prepared(thresholds=_thresholds(recipe, parts))
    return Prepared()


def combine(
    recipe: Recipe, prepared: Prepared, rows: Sequence[NDArray[np.float32]], first: int
) -> NDArray[np.float32]:
    """The result's rows from those of every model; `first` is the number of their first element
    in the tensor, which random masks go by."""
    import numpy as np

    if recipe.method == "passthrough":
        return rows[0] if recipe.scale is None else rows[0] * np.float32(recipe.scale)
    if recipe.method == "linear":
        return _mean(recipe, rows)
    if recipe.method == "slerp":
        start = recipe.base or 0
        own, other = prepared.factors
        return np.float32(own) * rows[start] + np.float32(other) * rows[1 - start]
    return _differences(recipe, prepared, rows, first)


def _mean(recipe: Recipe, rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    import numpy as np

    out = np.zeros_like(rows[0])
    for weight, own in zip(recipe.weights, rows, strict=True):
        out += np.float32(weight) * own
    if recipe.normalize:
        whole = math.fsum(recipe.weights)
        if whole == 0:
            raise UsageProblem(
                f"the weights of {recipe.tensor} add up to 0, which cannot be normalized",
                "other weights, or normalize: false",
            )
        out /= np.float32(whole)
    return out


def _differences(
    recipe: Recipe, prepared: Prepared, rows: Sequence[NDArray[np.float32]], first: int
) -> NDArray[np.float32]:
    import numpy as np

    assert recipe.base is not None
    base = rows[recipe.base]
    kept = [
        (np.float32(recipe.weights[i]), _thinned(recipe, prepared, i, rows[i] - base, first))
        for i in range(len(rows))
        if i != recipe.base
    ]
    weighted = [weight * difference for weight, difference in kept]
    if recipe.method in ("ties", "dare_ties"):
        mixed, divisor = _elected([weight for weight, _ in kept], weighted)
    else:
        mixed = np.sum(weighted, axis=0, dtype=np.float32)
        whole = math.fsum(float(weight) for weight, _ in kept)
        divisor = np.array(whole if abs(whole) >= 1e-8 else 1.0, np.float32)
    if recipe.normalize:
        mixed /= divisor
    if recipe.factor != 1.0:
        mixed *= np.float32(recipe.factor)
    return base + mixed


def _elected(
    weights: Sequence[np.float32], weighted: Sequence[NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The sum of what agrees with the elected sign, and of the weights of those models (1 where
    that is 0)."""
    import numpy as np

    positive = np.sum(weighted, axis=0, dtype=np.float32) >= 0
    mixed, divisor = np.zeros_like(weighted[0]), np.zeros_like(weighted[0])
    for weight, difference in zip(weights, weighted, strict=True):
        agrees = np.where(positive, difference > 0, difference < 0)
        mixed += np.where(agrees, difference, np.float32(0))
        divisor += np.where(agrees, weight, np.float32(0))
    divisor[divisor == 0] = 1
    return mixed, divisor


def _thinned(
    recipe: Recipe,
    prepared: Prepared,
    model: int,
    difference: NDArray[np.float32],
    first: int,
) -> NDArray[np.float32]:
    import numpy as np

    density = recipe.densities[model] if recipe.densities else 1.0
    if density >= 1 or recipe.method == "task_arithmetic":
        return difference
    if recipe.method == "ties":
        small = np.abs(difference) < np.float32(prepared.thresholds[model])
        difference[small] = 0
        return difference
    kept = random_mask(recipe.seed, model, recipe.tensor, first, difference.size, density)
    difference *= kept.reshape(difference.shape)
    if recipe.rescale and density > 0:
        difference /= np.float32(density)
    return difference


# --- what needs the whole tensor ----------------------------------------------------------


def _great_circle(
    recipe: Recipe, parts: Iterable[Sequence[NDArray[np.float32]]]
) -> tuple[float, float]:
    """The factors of the base and of the other at `t` of the way between them."""
    import numpy as np

    start = recipe.base or 0
    product = own = other = 0.0
    for rows in parts:
        a, b = rows[start].ravel().astype(np.float64), rows[1 - start].ravel().astype(np.float64)
        product, own, other = product + float(a @ b), own + float(a @ a), other + float(b @ b)
    lengths = math.sqrt(own) * math.sqrt(other)
    cosine = product / lengths if lengths else 0.0
    if abs(cosine) > _COLINEAR:
        return 1 - recipe.t, recipe.t
    angle = math.acos(cosine)
    return (
        math.sin(angle * (1 - recipe.t)) / math.sin(angle),
        math.sin(angle * recipe.t) / math.sin(angle),
    )


def _thresholds(
    recipe: Recipe, parts: Callable[[], Iterable[Sequence[NDArray[np.float32]]]]
) -> tuple[float, ...]:
    """For each model the magnitude of its k-th largest difference, k being `density` of all.

    Exact without holding the tensor: magnitudes of float32 sort like their bits, so two passes
    count the upper and then the lower half of those. Differences of just this magnitude are all
    kept, as in the authors' own code.
    """
    import numpy as np

    assert recipe.base is not None
    models = [i for i in range(len(recipe.densities)) if i != recipe.base]
    upper = {i: np.zeros(1 << 16, np.int64) for i in models}
    for rows in parts():
        for i in models:
            bits = _bits(rows[i] - rows[recipe.base])
            upper[i] += np.bincount(bits >> 16, minlength=1 << 16)
    wanted, n_elements = {}, 0
    for i in models:
        n_elements = int(upper[i].sum())
        wanted[i] = _nth(upper[i], int(recipe.densities[i] * n_elements))
    lower = {i: np.zeros(1 << 16, np.int64) for i in models}
    for rows in parts():
        for i in models:
            bits = _bits(rows[i] - rows[recipe.base])
            lower[i] += np.bincount(bits[bits >> 16 == wanted[i][0]] & 0xFFFF, minlength=1 << 16)
    found = [0.0] * len(recipe.densities)
    for i in models:
        bin_, left = wanted[i]
        if bin_ < 0:
            found[i] = math.inf  # nothing is kept
            continue
        low, _ = _nth(lower[i], left)
        found[i] = float(np.array((bin_ << 16) | low, np.uint32).view(np.float32))
    return tuple(found)


def _bits(difference: NDArray[np.float32]) -> NDArray[np.int64]:
    import numpy as np

    return np.abs(difference).ravel().view(np.uint32).astype(np.int64)


def _nth(counts: NDArray[np.int64], k: int) -> tuple[int, int]:
    """The bin that holds the k-th largest, and which of that bin it is (from 1); (-1, 0) for
    none."""
    import numpy as np

    if k <= 0:
        return -1, 0
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, k))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, k - before


def random_mask(
    seed: int, model: int, tensor: str, first: int, count: int, density: float
) -> NDArray[np.bool_]:
    """Which elements `first` to `first + count` of a model's difference stay.

    A function of seed, model, tensor and place alone: not of threads, of how many rows are
    computed at once, or of numpy's version (Philox's raw stream is fixed).
    """
    import numpy as np

    text = f"{seed}\0{model}\0{tensor}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    limit = round(density * (1 << 32))
    out = np.empty(count, np.bool_)
    done = 0
    while done < count:
        block, at = divmod(first + done, _MASK_BLOCK)
        stream = np.random.Philox(key=np.array([key, block], np.uint64))
        numbers = stream.random_raw(_MASK_BLOCK // 2).astype("<u8").view("<u4")[at:]
        n = min(len(numbers), count - done)
        out[done : done + n] = numbers[:n] < limit
        done += n
    return out
