"""Rows of logits to numbers, against naive float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from localllm.engine.quality.rows import CUTOFF, RowWorkers, compare, joined, reference, score

N_VOCAB = 5000


@pytest.fixture(scope="module")
def pair() -> tuple[NDArray[np.float32], NDArray[np.float32], list[int]]:
    """Peaked logits of a base, a noisy candidate, and targets of which one is very unlikely."""
    rng = np.random.default_rng(3)
    base = (rng.standard_normal((13, N_VOCAB)) * 4).astype(np.float32)
    base[0, 7] = 40  # nearly certain
    noise = rng.standard_normal(base.shape).astype(np.float32)
    targets = [int(t) for t in rng.integers(0, N_VOCAB, 13)]
    targets[1] = int(base[1].argmin())
    return base, base + noise, targets


def log_softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    x = row.astype(np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


@pytest.mark.parametrize("n_threads", [1, 4, 20])
def test_scores_are_log_softmax(pair: tuple[NDArray, NDArray, list[int]], n_threads: int) -> None:
    base, _, targets = pair
    with RowWorkers(n_threads, N_VOCAB) as workers:
        scored = score(workers, base, targets)
    expected = [-log_softmax(row)[t] for row, t in zip(base, targets, strict=True)]
    np.testing.assert_allclose(scored.nll, expected, rtol=2e-6, atol=2e-6)
    assert scored.top.tolist() == base.argmax(axis=1).tolist()


def test_divergence_is_summed_over_what_the_base_finds_possible(
    pair: tuple[NDArray, NDArray, list[int]],
) -> None:
    base, other, targets = pair
    with RowWorkers(2, N_VOCAB) as workers:
        held = reference(workers, base, targets)
        seen = compare(workers, held, other, targets)
    kld, change = [], []
    for row, mine, target in zip(base, other, targets, strict=True):
        p, q = log_softmax(row), log_softmax(mine)
        kept = p > -CUTOFF
        kld.append(float((np.exp(p[kept]) * (p - q)[kept]).sum()))
        change.append(float(np.exp(q[target]) - np.exp(p[target])))
    np.testing.assert_allclose(seen.kld, kld, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(seen.p_diff, change, atol=1e-6)
    assert seen.same_top.tolist() == (base.argmax(axis=1) == other.argmax(axis=1)).tolist()


def test_a_surprise_is_floored_as_in_llama_perplexitys_file(
    pair: tuple[NDArray, NDArray, list[int]],
) -> None:
    base, _, targets = pair
    with RowWorkers(1, N_VOCAB) as workers:
        held = reference(workers, base, targets)
    logs = [log_softmax(row) for row in base]
    expected = [min(-p[t], CUTOFF - p.max()) for p, t in zip(logs, targets, strict=True)]
    np.testing.assert_allclose(held.floored_nll, expected, rtol=2e-6, atol=2e-6)
    assert held.floored_nll[1] < held.nll[1]  # the very unlikely one


def test_the_same_logits_diverge_by_nothing(pair: tuple[NDArray, NDArray, list[int]]) -> None:
    base, _, targets = pair
    with RowWorkers(3, N_VOCAB) as workers:
        seen = compare(workers, reference(workers, base, targets), base.copy(), targets)
    assert not seen.kld.any()
    assert not seen.p_diff.any()
    assert seen.same_top.all()


def test_parts_and_the_whole_are_one(pair: tuple[NDArray, NDArray, list[int]]) -> None:
    base, other, targets = pair
    with RowWorkers(2, N_VOCAB) as workers:
        whole = reference(workers, base, targets)
        halves = [reference(workers, base[a:b], targets[a:b]) for a, b in ((0, 5), (5, 13))]
        again = joined(halves)
        for name in ("offsets", "ids", "logits", "normalizer", "nll", "top"):
            assert getattr(whole, name).tolist() == getattr(again, name).tolist()
        seen = compare(workers, whole, other, targets)
        part = compare(workers, whole.part(4, 9), other[4:9], targets[4:9])
    assert part.kld.tolist() == seen.kld[4:9].tolist()
    assert whole.n_bytes < base.nbytes


def test_nan_is_told_and_minus_infinity_is_a_logit(
    pair: tuple[NDArray, NDArray, list[int]],
) -> None:
    base, other, targets = (x.copy() if isinstance(x, np.ndarray) else x for x in pair)
    other[2, 17] = np.nan
    other[3, 17] = np.inf
    base[4, 20:40] = -np.inf
    other[4, 20:40] = -np.inf  # tokens that a model never says
    targets = [*targets[:4], 60, *targets[5:]]
    with RowWorkers(2, N_VOCAB) as workers:
        held = reference(workers, base, targets)
        seen = compare(workers, held, other, targets)
    assert np.isnan(seen.nll).tolist() == [i in (2, 3) for i in range(13)]
    assert np.isfinite(seen.kld[4])
    other[5, int(base[5].argmax())] = -np.inf  # the candidate excludes what the base says
    with RowWorkers(2, N_VOCAB) as workers:
        assert compare(workers, held, other, targets).kld[5] == np.inf
