"""Rows of a few numbers among many columns, with the products that training needs. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sparse:
    """A matrix [n_rows, n_columns] by its entries; every column at most once a row."""

    row: Ints
    column: Ints
    value: Floats
    shape: tuple[int, int]

    @classmethod
    def stack(cls, rows: Sequence[tuple[Ints, Floats]], n_columns: int) -> Sparse:
        """From one (columns, values) a row."""
        lengths = [len(columns) for columns, _ in rows]
        return cls(
            np.repeat(np.arange(len(rows)), lengths),
            np.concatenate([c for c, _ in rows]) if rows else np.zeros(0, dtype=np.int64),
            np.concatenate([v for _, v in rows]) if rows else np.zeros(0),
            (len(rows), n_columns),
        )

    def times(self, vector: Floats) -> Floats:
        """self @ vector: [n_rows]."""
        return _sums(self.row, weights=self.value * vector[self.column], n=self.shape[0])

    def transposed_times(self, vector: Floats) -> Floats:
        """self.T @ vector: [n_columns]."""
        return _sums(self.column, weights=self.value * vector[self.row], n=self.shape[1])

    def where(self, kept: NDArray[np.bool_]) -> Sparse:
        """The rows where the mask is true."""
        inside = kept[self.row]
        number = np.cumsum(kept) - 1
        return Sparse(
            number[self.row[inside]],
            self.column[inside],
            self.value[inside],
            (int(kept.sum()), self.shape[1]),
        )

    def group_sums(self, group: Ints, n_groups: int) -> Floats:
        """The sum of the rows of every group: [n_groups, n_columns]."""
        n_columns = self.shape[1]
        flat = _sums(
            group[self.row] * n_columns + self.column,
            weights=self.value,
            n=n_groups * n_columns,
        )
        return flat.reshape(n_groups, n_columns)


def _sums(places: Ints, weights: Floats, n: int) -> Floats:
    # without weights at all bincount gives integers
    return np.bincount(places, weights=weights, minlength=n).astype(np.float64, copy=False)


def ridge(matrix: Sparse, target: Floats, penalty: float) -> Floats:
    """argmin |matrix @ w - target|² + penalty |w|², by conjugate gradients: [n_columns].

    Solved to a relative residual of 1e-3, which is far inside what the data can tell; a few
    dozen products with the matrix, and no memory but some vectors.
    """

    def normal(vector: Floats) -> Floats:
        return matrix.transposed_times(matrix.times(vector)) + penalty * vector

    return conjugate_gradients(normal, matrix.transposed_times(target))


def ridge_chosen(
    matrix: Sparse, targets: Floats, direction: Floats, penalties: Sequence[float]
) -> Floats:
    """`ridge` for every column of `targets` [n_rows, k]: [n_columns, k].

    The penalty is the one of `penalties` that predicts `targets @ direction` best on a held-out
    fifth of the rows: what matters is that one combination, which may hold far less signal than
    the others.
    """
    held_out = np.random.default_rng(0).permutation(matrix.shape[0]) % 5 == 0
    rest, out = matrix.where(~held_out), matrix.where(held_out)
    wanted = targets @ direction

    def error(penalty: float) -> float:
        found = out.times(ridge(rest, wanted[~held_out], penalty))
        return float(np.sum((found - wanted[held_out]) ** 2))

    best = min(penalties, key=error)
    return np.stack([ridge(matrix, target, best) for target in targets.T], axis=1)


def conjugate_gradients(
    product: Callable[[Floats], Floats], right: Floats, tolerance: float = 1e-3, steps: int = 200
) -> Floats:
    """x with product(x) = right, for a symmetric positive product (Hestenes and Stiefel 1952)."""
    x = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    size = float(residual @ residual)
    enough = size * tolerance**2
    for _ in range(steps):
        if size <= enough:
            break
        moved = product(direction)
        step = size / float(direction @ moved)
        x += step * direction
        residual -= step * moved
        before, size = size, float(residual @ residual)
        direction = residual + (size / before) * direction
    return x
