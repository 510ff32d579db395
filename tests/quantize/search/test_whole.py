"""What whole choices say of the groups in them, against damages that are known."""

from __future__ import annotations

import numpy as np
import pytest

from localllm.quantize.search.whole import Observed, factors

GROUPS = [f"g{i}" for i in range(12)]


def observations(true: np.ndarray, n: int, noise: float, rest: float) -> list[Observed]:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(n):
        damages = np.exp(rng.normal(-4, 0.4, len(GROUPS)))
        kld = (rest + float(true @ damages)) * float(np.exp(rng.normal(0, noise)))
        found.append(Observed(dict(zip(GROUPS, damages.tolist(), strict=True)), kld))
    return found


def test_groups_that_count_for_more_are_found_under_noise() -> None:
    true = np.array([0.6] * 4 + [1.0] * 4 + [1.6] * 4)
    found = factors(observations(true, 40, 0.02, 0.02), 0.02)
    got = np.array([found[g] for g in GROUPS])
    assert np.corrcoef(np.log(got), np.log(true))[0, 1] > 0.9
    assert got[:4].mean() < 0.8 and got[8:].mean() > 1.2


def test_a_common_factor_changes_no_choice() -> None:
    found = factors(observations(np.full(12, 1.7), 40, 0.0, 0.0), 0.0)
    assert list(found.values()) == pytest.approx([1.0] * 12, abs=0.05)


def test_what_was_right_stays() -> None:
    found = factors(observations(np.ones(12), 30, 0.02, 0.05), 0.05)
    assert list(found.values()) == pytest.approx([1.0] * 12, abs=0.25)


def test_few_observations_say_little() -> None:
    true = np.array([0.2] + [1.0] * 11)
    found = factors(observations(true, 2, 0.0, 0.0), 0.0)
    assert 0.6 < found["g0"] <= 1.1
