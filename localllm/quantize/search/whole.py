"""What measuring whole choices teaches about the groups in them.

Groups measured alone miss what they do to each other: where much is lost, more is lost than the
sum, and not by all groups alike. Choices of the same size whose groups have more or less by
chance are measured whole; each run then says something of every group (a random design), so a
few dozen on a short text tell a group's share to within a tenth, where comparing two choices
that differ in one group would drown in noise. The divergence is taken as

    c + sum over groups of (scale + theta_g) * damage_g

which is linear in c, scale and theta: least squares with normal priors, theta around 0. How far
theta may stray is what predicts each choice best from the others (leave-one-out), within that
figure's own error the least: where groups add up, nothing is corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Standard deviations: of a run as a share of what it measures, of the scale around 1, of c as a
# share of the mean divergence; and those tried for theta.
_NOISE, _SCALE, _REST = 0.03, 0.5, 0.3
_THETAS = (0.02, 0.1, 0.2, 0.3)
_LEAST, _MOST = 0.3, 3.0  # of a group's factor


@dataclass(frozen=True)
class Observed:
    """One whole choice: the damages of its groups by what was known before, and its measured
    divergence, both in nats a token."""

    damages: Mapping[str, float]
    kld: float


def factors(observed: Sequence[Observed], rest: float) -> dict[str, float]:
    """By group, what its damage is to be multiplied by, relative to the mean group. `rest` is
    what pinned tensors do, alone."""
    import numpy as np

    groups = list(observed[0].damages)
    damages = np.array([[one.damages[g] for g in groups] for one in observed])
    klds = np.array([one.kld for one in observed])
    tried = [_fitted(damages, klds, rest, sd) for sd in _THETAS]
    missed = [np.square(loo) for _, loo in tried]
    best = min(missed, key=np.mean)
    # paired: the same choices are hard to predict for all
    near = (
        solved
        for (solved, _), one in zip(tried, missed, strict=True)
        if (one - best).mean() <= (one - best).std() / len(one) ** 0.5
    )
    solved = next(near)
    scale = max(_LEAST, 1 + float(solved[len(groups)]))
    return {
        group: float(np.clip((scale + theta) / scale, _LEAST, _MOST))
        for group, theta in zip(groups, solved[: len(groups)], strict=True)
    }


def _fitted(
    damages: NDArray[np.float64], klds: NDArray[np.float64], rest: float, theta_sd: float
) -> tuple[Any, Any]:
    """(theta of each group, scale - 1, c - rest), and how far each choice is from what the
    others predict, in units of a run's noise."""
    import numpy as np

    n, size = damages.shape
    weights = 1 / (_NOISE * klds)
    rows = np.column_stack([damages, damages.sum(axis=1), np.ones(n)]) * weights[:, None]
    wanted = (klds - damages.sum(axis=1) - rest) * weights
    sds = np.array([*[theta_sd] * size, _SCALE, _REST * klds.mean()])
    inverse = np.linalg.inv(rows.T @ rows + np.diag(1 / sds**2))
    solved = inverse @ rows.T @ wanted
    leverage = np.einsum("ij,jk,ik->i", rows, inverse, rows)
    return solved, (wanted - rows @ solved) / np.maximum(1 - leverage, 1e-9)
