"""What measuring whole choices teaches about the groups in them.

Groups measured alone miss what they do to each other: where much is lost, more is lost than the
sum, and not by all groups alike. Choices of the same size whose groups have more or less by
chance are measured whole; each run then says something of every group (a random design), so a
few dozen on a short text tell a group's share to within a tenth, where comparing two choices
that differ in one group would drown in noise. The divergence is taken as

    c + sum over groups of (scale + theta_g) * damage_g

which is linear in c, scale and theta: least squares with normal priors, theta around 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Standard deviations: of a run as a share of what it measures, of the scale around 1, of a
# group's theta, and of c as a share of the mean divergence.
_NOISE, _SCALE, _THETA, _REST = 0.03, 0.5, 0.3, 0.3
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
    n, size = damages.shape
    # Unknown: theta of each group, scale - 1, c - rest. Rows are divided by their deviations.
    rows = np.column_stack([damages, damages.sum(axis=1), np.ones(n)])
    wanted = klds - damages.sum(axis=1) - rest
    weights = 1 / (_NOISE * klds)
    sds = np.array([*[_THETA] * size, _SCALE, _REST * klds.mean()])
    system = np.vstack([rows * weights[:, None], np.diag(1 / sds)])
    solved, *_ = np.linalg.lstsq(
        system, np.append(wanted * weights, np.zeros(size + 2)), rcond=None
    )
    scale = max(_LEAST, 1 + float(solved[size]))
    return {
        group: float(np.clip((scale + theta) / scale, _LEAST, _MOST))
        for group, theta in zip(groups, solved[:size], strict=True)
    }
