"""How much of a change is left after it was rounded to a tensor type.

With W the weights as the base stores them, D the change that is merged in, and Q the rounding
of the type that is written, the share that survived is the projection

    share = <Q(W + D) - W, D> / <D, D>

1 where the result moved by D (plus noise that does not point its way), 0 where it did not move.
A base that is quantized lies on the grid of its own type: a change of less than half a step
rounds back to where it was, and nothing is left. On a finer or another grid the same rounding
is noise in every direction. This is the least-squares coefficient of the change that was made
on the change that was meant; the effect is that of stochastic-rounding literature turned round
(Gupta et al. 2015, "Deep Learning with Limited Numerical Precision": round-to-nearest loses
updates below half a unit in the last place).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Survival:
    """`share` as above, None where nothing was changed; `error` its standard error if rounding
    were independent of the change.

    `relative_change` is |D| / |W|, `noise` |Q(W + D) - (W + D)| / |D|: how many times larger
    the rounding is than the change (it is the base's too, where that was quantized).
    """

    share: float | None
    error: float
    relative_change: float
    noise: float
    n_weights: int


@dataclass
class Tally:
    """Sums over weights, in float64."""

    moved: float = 0.0  # <Q(W + D) - W, D>
    change: float = 0.0  # <D, D>
    weight: float = 0.0  # <W, W>
    rounding: float = 0.0  # |Q(W + D) - (W + D)|^2
    n: int = 0

    def add(self, other: Tally) -> None:
        self.moved += other.moved
        self.change += other.change
        self.weight += other.weight
        self.rounding += other.rounding
        self.n += other.n

    def result(self) -> Survival:
        if not self.change:
            return Survival(None, 0.0, 0.0, 0.0, self.n)
        noise = sqrt(self.rounding / self.change)
        return Survival(
            share=self.moved / self.change,
            error=noise / sqrt(max(1, self.n)),
            relative_change=sqrt(self.change / self.weight) if self.weight else float("inf"),
            noise=noise,
            n_weights=self.n,
        )


def tally(
    stored: NDArray[np.float32], change: NDArray[np.float32], written: NDArray[np.float32]
) -> Tally:
    """The sums over some rows: W, D and Q(W + D)."""
    moved = written - stored
    rounding = moved - change
    return Tally(
        moved=_dot(moved, change),
        change=_dot(change, change),
        weight=_dot(stored, stored),
        rounding=_dot(rounding, rounding),
        n=change.size,
    )


def total(tallies: Iterable[Tally]) -> Tally:
    """All of them together: each tensor counts by the size of its change."""
    whole = Tally()
    for one in tallies:
        whole.add(one)
    return whole


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Row by row in float32, rows in float64."""
    import numpy as np

    rows = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return float(np.einsum("ij,ij->i", *rows).sum(dtype=np.float64))
