"""What whole choices say of the groups in them, against damages that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from localllm.quantize.search.factors import Factors
from localllm.quantize.search.whole import Observed, learn

GROUPS = [f"g{i}" for i in range(12)]
TYPES = ["q3", "q4", "q5", "q6"]


def observations(
    true: np.ndarray, n: int, noise: float, rest: float, types: tuple[float, ...] = (1, 1, 1, 1)
) -> list[Observed]:
    """Each group's damage is parted among the types by chance."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(n):
        shares = rng.dirichlet([0.5] * len(TYPES), len(GROUPS))
        damages = np.exp(rng.normal(-4, 0.4, len(GROUPS)))[:, None] * shares
        sure = rest + float((damages * (true[:, None] + np.array(types)[None, :] - 1)).sum())
        kld = sure * float(np.exp(rng.normal(0, noise)))
        by_group, by_type = damages.sum(axis=1).tolist(), damages.sum(axis=0).tolist()
        found.append(
            Observed(
                dict(zip(GROUPS, by_group, strict=True)),
                dict(zip(TYPES, by_type, strict=True)),
                kld,
            )
        )
    return found


def test_groups_that_count_for_more_are_found_under_noise() -> None:
    true = np.array([0.6] * 4 + [1.0] * 4 + [1.6] * 4)
    found = learn(observations(true, 40, 0.02, 0.02), 0.02)
    got = np.array([found.groups[g] for g in GROUPS])
    assert np.corrcoef(np.log(got), np.log(true))[0, 1] > 0.9
    assert got[:4].mean() < 0.8 and got[8:].mean() > 1.2
    assert list(found.types.values()) == pytest.approx([1.0] * 4, abs=0.2)


def test_types_that_lose_more_than_their_errors_say_are_found() -> None:
    true = (1.4, 0.8, 1.0, 1.2)
    found = learn(observations(np.ones(12), 60, 0.02, 0.02, true), 0.02)
    got = [found.types[t] for t in TYPES]
    assert np.corrcoef(np.log(got), np.log(true))[0, 1] > 0.9
    assert got[0] > 1.15 and got[1] < 0.92


def test_a_common_factor_changes_no_choice() -> None:
    found = learn(observations(np.full(12, 1.7), 40, 0.0, 0.0), 0.0)
    assert list(found.groups.values()) == pytest.approx([1.0] * 12, abs=0.05)
    assert list(found.types.values()) == pytest.approx([1.0] * 4, abs=0.05)


def test_texts_of_another_difficulty_are_told_from_groups_that_count_for_more() -> None:
    true = np.array([0.6] * 4 + [1.0] * 4 + [1.6] * 4)
    easy, hard = (0.5, 2.0)
    seen = [
        replace(one, kld=one.kld * (easy, hard)[i % 2], turn=i % 2)
        for i, one in enumerate(observations(true, 60, 0.02, 0.0))
    ]
    found = learn(seen, 0.0)
    got = np.array([found.groups[g] for g in GROUPS])
    assert np.corrcoef(np.log(got), np.log(true))[0, 1] > 0.9
    assert got[:4].mean() < 0.85 and got[8:].mean() > 1.15


def test_what_one_text_says_by_chance_others_do_not() -> None:
    """Of four texts two count a group twice, two not at all."""
    seen = []
    for i, one in enumerate(observations(np.ones(12), 80, 0.02, 0.0)):
        more = one.by_group["g3"] * (1.0 if i % 2 else -1.0)
        seen.append(replace(one, kld=one.kld + more, turn=i % 4))
    all_of_them = learn(seen, 0.0).groups["g3"]
    misled = learn([replace(one, turn=0) for one in seen[1::2]], 0.0).groups["g3"]
    assert misled > 1.3
    assert all_of_them == pytest.approx(1.0, abs=0.3 * (misled - 1.0))


def test_what_was_right_stays() -> None:
    found = learn(observations(np.ones(12), 30, 0.02, 0.05), 0.05)
    assert list(found.groups.values()) == pytest.approx([1.0] * 12, abs=0.25)


def test_few_observations_say_little() -> None:
    true = np.array([0.2] + [1.0] * 11)
    found = learn(observations(true, 2, 0.0, 0.0), 0.0)
    assert 0.6 < found.groups["g0"] <= 1.1


def test_a_share_of_factors_and_their_product() -> None:
    found = Factors({"a": 4.0}, {"q4": 0.25})
    assert found.share(0.5) == Factors({"a": 2.0}, {"q4": 0.5})
    assert found.share(0.0).of("a", "q4") == 1.0
    both = found.times(Factors({"a": 0.5, "b": 3.0}))
    assert (both.of("a", "q5"), both.of("b", "q4"), both.of("c", "q5")) == (2.0, 0.75, 1.0)
