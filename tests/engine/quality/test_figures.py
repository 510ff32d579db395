"""Figures by llama-perplexity's definitions, and intervals that hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from localllm.engine.quality.figures import TokenValues, figures_of, spread
from localllm.engine.quality.interval import clustered, mean_of


def mean_and_uncertainty(values: list[float]) -> tuple[float, float]:
    """perplexity.cpp's lambda of this name, by sums."""
    n = len(values)
    f = sum(values) / n
    df = sum(v * v for v in values) / n - f * f
    return f, math.sqrt(df / (n - 1)) if df > 0 and n > 10 else 0.0


def values(seed: int = 1) -> TokenValues:
    rng = np.random.default_rng(seed)
    base = rng.gamma(2.0, 1.5, (12, 30))
    nll = base + rng.normal(0.1, 0.4, base.shape)
    return TokenValues(
        nll, base, np.minimum(base, 8.0), rng.gamma(1.0, 0.2, base.shape),
        np.exp(-nll) - np.exp(-base), (rng.random(base.shape) < 0.8).astype(float),
    )  # fmt: skip


def test_the_definitions() -> None:
    v = values()
    figures = figures_of(v)
    assert v.base_nll is not None
    nll, base = v.nll.ravel().tolist(), v.base_nll.ravel().tolist()
    n = len(nll)
    log_ppl, log_base = mean_and_uncertainty(nll), mean_and_uncertainty(base)
    ppl, ppl_base = math.exp(log_ppl[0]), math.exp(log_base[0])
    assert figures.perplexity.value == pytest.approx(ppl)
    assert figures.perplexity.standard_error == pytest.approx(ppl * log_ppl[1])
    covariance = sum(a * b for a, b in zip(nll, base, strict=True)) / n
    covariance = (covariance - log_ppl[0] * log_base[0]) / (n - 1)
    d = figures.divergence
    assert d is not None
    p = d.perplexity
    assert p.base_perplexity.value == pytest.approx(ppl_base)
    assert p.correlation == pytest.approx(covariance / (log_ppl[1] * log_base[1]))
    assert p.ln_ratio.value == pytest.approx(log_ppl[0] - log_base[0])
    error = math.sqrt(log_ppl[1] ** 2 + log_base[1] ** 2 - 2 * covariance)
    assert p.ln_ratio.standard_error == pytest.approx(error)
    assert p.ratio.value == pytest.approx(ppl / ppl_base)
    assert p.ratio.standard_error == pytest.approx(ppl / ppl_base * error)
    assert p.difference.value == pytest.approx(ppl - ppl_base)
    assert p.difference.standard_error == pytest.approx(
        math.sqrt(
            (ppl * log_ppl[1]) ** 2 + (ppl_base * log_base[1]) ** 2
            - 2 * ppl * ppl_base * covariance
        )
    )  # fmt: skip


def test_the_definitions_of_changes() -> None:
    v = values(2)
    d = figures_of(v).divergence
    assert d is not None and v.p_diff is not None and v.same_top is not None and v.kld is not None
    squares = mean_and_uncertainty((v.p_diff**2).ravel().tolist())
    assert d.rms_p_diff.value == pytest.approx(math.sqrt(squares[0]))
    assert d.rms_p_diff.standard_error == pytest.approx(0.5 / math.sqrt(squares[0]) * squares[1])
    share = v.same_top.mean()
    assert d.same_top.value == pytest.approx(share)
    assert d.same_top.standard_error == pytest.approx(
        math.sqrt(share * (1 - share) / (v.same_top.size - 1))
    )
    kld = mean_and_uncertainty(v.kld.ravel().tolist())
    assert (d.mean_kld.value, d.mean_kld.standard_error) == pytest.approx(kld)


def test_percentiles_are_linear_between_the_sorted() -> None:
    data = np.random.default_rng(0).random(237)
    ordered = sorted(data.tolist())

    def percentile(fraction: float) -> float:
        at = fraction * (len(ordered) - 1)
        i = int(at)
        return (1 - (at - i)) * ordered[i] + (at - i) * ordered[min(i + 1, len(ordered) - 1)]

    s = spread(data)
    assert (s.p99_9, s.p95, s.p10, s.p0_1) == pytest.approx(
        tuple(percentile(f) for f in (0.999, 0.95, 0.1, 0.001))
    )
    assert s.median == ordered[118]
    assert (s.maximum, s.minimum) == (ordered[-1], ordered[0])
    assert spread(np.array([1.0, 2.0, 4.0, 9.0])).median == 3.0


def test_the_clustered_error_is_that_of_context_means() -> None:
    data = np.random.default_rng(4).normal(size=(9, 50)) + np.arange(9)[:, None]
    means = [float(row.mean()) for row in data]
    centre = sum(means) / 9
    expected = math.sqrt(sum((m - centre) ** 2 for m in means) / 8 / 9)
    found = mean_of(data)
    assert found.clustered_error == pytest.approx(expected)
    assert found.standard_error is not None and found.standard_error < expected / 3
    assert found.low is not None and found.high is not None
    assert found.low < found.value < found.high


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Skewed context effects, as divergences have: 95 % intervals of 400 samples of 20 contexts.
    The usual interval over tokens would hold it in under half of them."""
    rng = np.random.default_rng(11)
    held = naive = 0
    for _ in range(400):
        effects = rng.gamma(2.0, 0.5, (20, 1))  # mean 1
        tokens = effects * rng.gamma(1.0, 1.0, (20, 60))
        e = mean_of(tokens)
        assert e.low is not None and e.high is not None and e.standard_error is not None
        held += e.low <= 1.0 <= e.high
        naive += abs(e.value - 1.0) <= 1.96 * e.standard_error
    assert 0.90 <= held / 400 <= 0.985
    assert naive / 400 < 0.6


def test_too_few_contexts_promise_nothing() -> None:
    assert clustered(np.array([1.0])).error is None
    few = clustered(np.array([1.0, 2.0, 3.0]))
    assert few.error == pytest.approx(1 / math.sqrt(3))
    assert few.low is None
    same = clustered(np.full(10, 2.5))
    assert (same.error, same.low, same.high) == (0.0, 2.5, 2.5)


def test_a_broken_model_has_figures_all_the_same() -> None:
    nll = np.full((9, 20), 800.0)
    assert figures_of(TokenValues(nll)).perplexity.value == math.inf
    v = values()
    kld = v.kld.copy() if v.kld is not None else np.zeros(1)
    kld[0, 0] = math.inf
    figures = figures_of(TokenValues(v.nll, v.base_nll, v.floored_nll, kld, v.p_diff, v.same_top))
    assert figures.divergence is not None
    assert figures.divergence.mean_kld.value == math.inf
    assert math.isfinite(figures.divergence.kld.median)
