"""Figures of quality from per-token values, by the definitions of llama-perplexity.

Sources: `perplexity` and `kl_divergence` in tools/perplexity/perplexity.cpp. Probabilities and
their changes are shares, not percent; divergences and logarithms are in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.engine.quality.interval import Estimate, mean_of, transformed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """The distribution of a per-token value; between values percentiles are linear."""

    maximum: float
    p99_9: float
    p99: float
    p95: float
    p90: float
    p75: float
    median: float
    p25: float
    p10: float
    p5: float
    p1: float
    p0_1: float
    minimum: float


@dataclass(frozen=True)
class AgainstBase:
    """How perplexity changed. `ln_ratio` is ln(PPL / PPL of the base), `correlation` that of the
    tokens' log-likelihoods under both models (None where either does not vary)."""

    base_perplexity: Estimate
    correlation: float | None
    ln_ratio: Estimate
    ratio: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Divergence:
    """A candidate against its base.

    `kld` is the KL divergence of the candidate's distribution from the base's. `p_diff` is the
    probability of the text's own next token less the base's, `rms_p_diff` its root mean square,
    `same_top` the share of positions where both models find the same token likeliest.

    `as_stored` is `perplexity` as `llama-perplexity --kl-divergence` prints it: its file of base
    logits holds no log-probability further than 16 below the likeliest token's, so tokens that
    surprise the base more count as less surprising, and the base's perplexity comes out lower
    than llama-perplexity itself measures it without the file.
    """

    perplexity: AgainstBase
    as_stored: AgainstBase
    mean_kld: Estimate
    kld: Spread
    mean_p_diff: Estimate
    p_diff: Spread
    rms_p_diff: Estimate
    same_top: Estimate


@dataclass(frozen=True)
class Figures:
    """`n_chunks` contexts, `n_tokens` scored tokens in all. `chunk_nll` and `chunk_kld` are the
    means of each context, for comparing two candidates pair by pair."""

    n_chunks: int
    n_tokens: int
    perplexity: Estimate
    divergence: Divergence | None
    chunk_nll: tuple[float, ...]
    chunk_kld: tuple[float, ...]


@dataclass(frozen=True)
class TokenValues:
    """Per-token values [n_chunks, n_scored]; what needs a base is None without one."""

    nll: Values
    base_nll: Values | None = None
    floored_nll: Values | None = None
    kld: Values | None = None
    p_diff: Values | None = None
    same_top: Values | None = None


def figures_of(values: TokenValues) -> Figures:
    """All figures of one candidate."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # infinite divergences have figures, if no errors
        return _figures(values)


def _figures(values: TokenValues) -> Figures:
    kld = values.kld
    return Figures(
        n_chunks=values.nll.shape[0],
        n_tokens=values.nll.size,
        perplexity=_perplexity(values.nll),
        divergence=None if kld is None else _divergence(values),
        chunk_nll=tuple(float(mean) for mean in values.nll.mean(axis=1)),
        chunk_kld=() if kld is None else tuple(float(mean) for mean in kld.mean(axis=1)),
    )


def _perplexity(nll: Values) -> Estimate:
    mean = mean_of(nll)
    return transformed(mean, exponential, exponential(mean.value))


def _divergence(values: TokenValues) -> Divergence:
    nll, base, floored = values.nll, values.base_nll, values.floored_nll
    kld, p_diff, same = values.kld, values.p_diff, values.same_top
    assert base is not None and floored is not None
    assert kld is not None and p_diff is not None and same is not None
    return Divergence(
        perplexity=_against(nll, base),
        as_stored=_against(nll, floored),
        mean_kld=mean_of(kld),
        kld=spread(kld),
        mean_p_diff=mean_of(p_diff),
        p_diff=spread(p_diff),
        rms_p_diff=_root_mean_square(p_diff),
        same_top=_share(same),
    )


def _against(nll: Values, base: Values) -> AgainstBase:
    ours, theirs = _perplexity(nll), _perplexity(base)
    # The error of a mean of differences is what llama-perplexity gets from both variances and
    # the covariance.
    ln_ratio = mean_of(nll - base)
    difference = mean_of(ours.value * nll - theirs.value * base)  # linear in both means
    shift = ours.value - theirs.value - difference.value
    return AgainstBase(
        base_perplexity=theirs,
        correlation=_correlation(nll, base),
        ln_ratio=ln_ratio,
        ratio=transformed(ln_ratio, exponential, exponential(ln_ratio.value)),
        difference=transformed(difference, lambda x: x + shift, 1.0),
    )


def _correlation(a: Values, b: Values) -> float | None:
    import numpy as np

    deviations = float(np.std(a)) * float(np.std(b))
    if not deviations > 0:  # NaN too
        return None
    return float(np.mean((a - a.mean()) * (b - b.mean()))) / deviations


def _root_mean_square(values: Values) -> Estimate:
    squares = mean_of(values**2)
    rms = math.sqrt(squares.value)
    return transformed(squares, lambda x: math.sqrt(max(0.0, x)), 0.5 / rms if rms else 0.0)


def _share(same: Values) -> Estimate:
    mean = mean_of(same)
    n, p = same.size, mean.value
    error = math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else 0.0
    bounded = transformed(mean, lambda x: min(1.0, max(0.0, x)), 1.0)
    return Estimate(p, error, bounded.clustered_error, bounded.low, bounded.high)


def spread(values: Values) -> Spread:
    """llama-perplexity's percentiles: linear between the sorted values."""
    import numpy as np

    shares = (100, 99.9, 99, 95, 90, 75, 50, 25, 10, 5, 1, 0.1, 0)
    return Spread(*(float(value) for value in np.percentile(values, shares)))


def exponential(x: float) -> float:
    """e to the x; infinity where that is more than a float holds (a broken model)."""
    return math.exp(x) if x < 709 else math.inf
