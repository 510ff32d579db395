"""Means of quantities whose errors cluster by context, with honest intervals.

Tokens of one context succeed and fail together, so the usual standard error over tokens, which
llama-perplexity prints, is too small. Here a whole context is one observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVEL = 0.95
_RESAMPLES = 4000
_FEW = 8  # contexts under which resampling says nothing


@dataclass(frozen=True)
class Estimate:
    """A figure with its errors.

    `standard_error` takes every token as independent: llama-perplexity's figure. None where it
    has none. `clustered_error` takes every context as one observation; `low` to `high` is the
    95 % interval from resampling contexts, None with fewer than eight of them.
    """

    value: float
    standard_error: float | None
    clustered_error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Clustered:
    """The mean over contexts, its standard error, and its 95 % interval."""

    mean: float
    error: float | None  # None with one context
    low: float | None  # None with fewer than eight
    high: float | None


def clustered(means: NDArray[np.float64]) -> Clustered:
    """From one mean a context, all contexts of the same length.

    The interval is the bootstrap-t (Efron and Tibshirani 1993, chapter 12): quantiles of
    (resampled mean - mean) / resampled standard error, which allows for the skewness that
    divergences have. The seed is fixed: the same figures give the same interval.
    """
    import numpy as np

    n, mean = len(means), float(np.mean(means))
    if n < 2 or not np.isfinite(means).all():
        return Clustered(mean, None, None, None)
    error = float(np.std(means, ddof=1)) / math.sqrt(n)
    if n < _FEW:
        return Clustered(mean, error, None, None)
    if error == 0.0:
        return Clustered(mean, error, mean, mean)
    picked = means[np.random.default_rng(0).integers(0, n, (_RESAMPLES, n))]
    errors = np.std(picked, axis=1, ddof=1) / math.sqrt(n)
    usable = errors > 0
    t = (np.mean(picked, axis=1)[usable] - mean) / errors[usable]
    tail = (1 - LEVEL) / 2
    t_low, t_high = (float(q) for q in np.quantile(t, [tail, 1 - tail]))
    return Clustered(mean, error, mean - t_high * error, mean - t_low * error)


def mean_of(values: NDArray[np.float64]) -> Estimate:
    """The mean of per-token `values` [n_contexts, n_tokens]."""
    of_contexts = clustered(values.mean(axis=1))
    return Estimate(
        float(values.mean()), independent_error(values), of_contexts.error, of_contexts.low,
        of_contexts.high,
    )  # fmt: skip


def independent_error(values: NDArray[np.float64]) -> float:
    """llama-perplexity's mean_and_uncertainty: population deviation over sqrt(n - 1), 0 for ten
    values and fewer."""
    import numpy as np

    n = values.size
    return float(np.std(values)) / math.sqrt(n - 1) if n > 10 else 0.0


def transformed(
    estimate: Estimate, function: Callable[[float], float], slope: float, value: float | None = None
) -> Estimate:
    """The estimate of a rising `function` of a mean; `slope` is its derivative there."""

    def scaled(error: float | None) -> float | None:
        return None if error is None else slope * error

    def mapped(end: float | None) -> float | None:
        return None if end is None else function(end)

    return Estimate(
        function(estimate.value) if value is None else value,
        scaled(estimate.standard_error), scaled(estimate.clustered_error),
        mapped(estimate.low), mapped(estimate.high),
    )  # fmt: skip
