"""The arithmetic of merging against the published formulas, in one piece and in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from localllm.errors import UsageProblem
from localllm.library.merging.methods import Recipe, combine, prepare, random_mask
from tests.library.merging import formulas

ROWS = 7
MASK = [2, 6, 9, 13, 15, 17, 20, 24, 27, 28, 32, 33, 34, 35, 36, 39]


def tensors(n: int, seed: int = 0, shape: tuple[int, int] = (29, 64)) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(n)]


def run(recipe: Recipe, given: Sequence[Any], rows: int = ROWS) -> Any:
    """Merged a few rows at a time, as the program does."""
    width = given[0].shape[1]

    def parts() -> Iterator[list[Any]]:
        for i in range(0, len(given[0]), rows):
            yield [one[i : i + rows] for one in given]

    prepared = prepare(recipe, parts)
    return np.concatenate(
        [combine(recipe, prepared, part, i * rows * width) for i, part in enumerate(parts())]
    )


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6)


def test_linear() -> None:
    a, b, c = tensors(3)
    close(
        run(Recipe("linear", weights=(0.3, 1.2, -0.4), normalize=True), [a, b, c]),
        formulas.linear([a, b, c], [0.3, 1.2, -0.4]),
    )
    close(
        run(Recipe("linear", weights=(0.3, 1.2, 0.0)), [a, b, c]),
        formulas.linear([a, b, c], [0.3, 1.2, 0.0], normalize=False),
    )


def test_weights_that_add_up_to_nothing() -> None:
    with pytest.raises(UsageProblem, match="add up to 0"):
        run(Recipe("linear", weights=(1.0, -1.0), normalize=True), tensors(2))


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(t: float) -> None:
    a, b = tensors(2)
    close(run(Recipe("slerp", base=0, t=t), [a, b]), formulas.slerp(a, b, t))
    close(run(Recipe("slerp", base=1, t=t), [b, a]), formulas.slerp(a, b, t))
    near = a + np.float32(1e-3) * b  # all but colinear
    close(run(Recipe("slerp", base=0, t=t), [a, near]), (1 - t) * a + t * near)
    close(run(Recipe("slerp", base=0, t=t), [a, 0 * b]), formulas_of_nothing(a, t))


def formulas_of_nothing(a: Any, t: float) -> Any:
    """At a right angle to a vector without a direction: sin((1 - t) 90°) of the other."""
    return np.sin((1 - t) * np.pi / 2) * a


def test_task_arithmetic() -> None:
    base, a, b = tensors(3)
    recipe = Recipe("task_arithmetic", base=0, weights=(0.0, 0.7, -0.2))
    close(run(recipe, [base, a, b]), formulas.task_arithmetic(base, [a, b], [0.7, -0.2]))
    halved = Recipe("task_arithmetic", base=0, weights=(0.0, 0.7, -0.2), factor=0.5)
    close(run(halved, [base, a, b]), formulas.task_arithmetic(base, [a, b], [0.35, -0.1]))
    same = Recipe("task_arithmetic", base=0, weights=(0.0, 0.7, -0.2), normalize=True)
    close(run(same, [base, a, b]), formulas.task_arithmetic(base, [a, b], [1.4, -0.4]))


@pytest.mark.parametrize("densities", [(1.0, 1.0), (0.5, 0.2), (0.31, 1.0), (0.0, 0.4)])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties(densities: tuple[float, float], normalize: bool) -> None:
    base, a, b = tensors(3, seed=3)
    recipe = Recipe(
        "ties",
        base=1,
        weights=(0.6, 0.0, 0.9),
        densities=(densities[0], 1.0, densities[1]),
        normalize=normalize,
    )
    expected = formulas.ties(base, [a, b], [0.6, 0.9], densities, normalize=normalize)
    close(run(recipe, [a, base, b]), expected)


def test_the_threshold_of_ties_is_exact() -> None:
    """With differences that are all different, just k stay."""
    rng = np.random.default_rng(5)
    base = np.zeros((40, 50), np.float32)
    change = (rng.permutation(2000).reshape(40, 50) + 1).astype(np.float32) * np.float32(1e-6)
    for density in (0.0005, 0.25, 0.9995):
        recipe = Recipe("ties", base=0, weights=(0, 1.0), densities=(1.0, density), normalize=False)
        kept = run(recipe, [base, base + change])
        assert np.count_nonzero(kept) == int(density * 2000)
        assert kept[kept > 0].min() > (change.max() * (1 - density)) * 0.999


def test_dare_is_the_published_one_on_its_own_mask() -> None:
    base, a, b = tensors(3, seed=9)
    recipe = Recipe(
        "dare_linear", base=0, weights=(0, 0.6, 0.5), densities=(1.0, 0.4, 0.7), seed=11, tensor="x"
    )
    masks = [
        random_mask(11, i, "x", 0, base.size, d).reshape(base.shape)
        for i, d in ((1, 0.4), (2, 0.7))
    ]
    thin = [
        m * (t - base).astype(np.float64) / d
        for m, t, d in zip(masks, (a, b), (0.4, 0.7), strict=True)
    ]
    close(run(recipe, [base, a, b]), base + 0.6 * thin[0] + 0.5 * thin[1])
    with_signs = Recipe(
        "dare_ties", base=0, weights=(0, 0.6, 0.5), densities=(1.0, 0.4, 0.7), seed=11, tensor="x"
    )
    expected = formulas.elected(base, [0.6 * thin[0], 0.5 * thin[1]], [0.6, 0.5], normalize=False)
    close(run(with_signs, [base, a, b]), expected)
    assert np.array_equal(run(recipe, [base, a, b], rows=3), run(recipe, [base, a, b], rows=29))
    unscaled = Recipe(
        "dare_linear",
        base=0,
        weights=(0, 1.0, 0.0),
        densities=(1.0, 0.4, 0.7),
        seed=11,
        tensor="x",
        rescale=False,
    )
    close(run(unscaled, [base, a, b]), base + 0.4 * thin[0])


def test_random_masks() -> None:
    """A share of `density`, one mask a model, tensor and seed, and the same in any pieces."""
    whole = random_mask(1, 0, "a", 0, 200_000, 0.3)
    assert abs(whole.mean() - 0.3) < 4 * (0.21 / 200_000) ** 0.5
    pieces = [
        random_mask(1, 0, "a", i, min(7777, 200_000 - i), 0.3) for i in range(0, 200_000, 7777)
    ]
    assert np.array_equal(whole, np.concatenate(pieces))
    for other in ((2, 0, "a"), (1, 1, "a"), (1, 0, "b")):
        same = (random_mask(*other, 0, 200_000, 0.3) == whole).mean()
        assert abs(same - (0.09 + 0.49)) < 0.01
    assert random_mask(1, 0, "a", 0, 100, 1.0).all()
    assert not random_mask(1, 0, "a", 0, 100, 0.0).any()
    # fixed for ever: a seed makes the same model again in any version
    assert np.flatnonzero(random_mask(0, 1, "blk.0.attn_q.weight", 0, 40, 0.3)).tolist() == MASK


def test_passthrough() -> None:
    (a,) = tensors(1)
    assert run(Recipe("passthrough"), [a]) is not None
    np.testing.assert_array_equal(run(Recipe("passthrough"), [a]), a)
    np.testing.assert_array_equal(run(Recipe("passthrough", scale=0.5), [a]), a * np.float32(0.5))
