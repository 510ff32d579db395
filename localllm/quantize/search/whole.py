"""What measuring whole choices teaches about the groups and types in them.

Groups measured alone miss what they do to each other, and one error hurts more in one type than
in another: the same lost energy lies elsewhere. Choices of the same size whose groups and types
count for more or less by chance are measured whole; each run then says something of every group
and type (a random design), so a few dozen on a short text tell their factors, where comparing
two choices that differ in one group would drown in noise. The divergence is taken as

    c + sum over groups and types of (scale_text + theta_group + phi_type) * damage_group,type

which is linear in c, scales, theta and phi: least squares with normal priors, theta and phi around
0. Choices are measured on several texts in turn, since what one of them says of a group by chance
the others do not; each has a scale. How far theta and phi may stray is what predicts each choice
best from the others (leave-one-out).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localllm.quantize.search.factors import Factors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Standard deviations: of a run as a share of what it measures, of a scale around 1, of c as a
# share of the mean divergence; and those tried for theta and for phi.
_NOISE, _SCALE, _REST = 0.04, 0.5, 0.3
_STRAY = (0.02, 0.1, 0.2, 0.3)
_LEAST, _MOST = 0.3, 3.0  # of a factor


@dataclass(frozen=True)
class Observed:
    """One whole choice: its damages by what was known before, summed by group and by type, and
    its divergence as measured on the text `turn`, all in nats a token."""

    by_group: Mapping[str, float]
    by_type: Mapping[str, float]
    kld: float
    turn: int = 0


def learn(observed: Sequence[Observed], rest: float) -> Factors:
    """What damages are to be multiplied by, relative to the mean. `rest` is what pinned tensors
    do, alone."""
    import numpy as np

    groups, types = list(observed[0].by_group), _named(one.by_type for one in observed)
    damages = np.array(
        [
            [*(one.by_group[g] for g in groups), *(one.by_type.get(t, 0.0) for t in types)]
            for one in observed
        ]
    )
    klds = np.array([one.kld for one in observed])
    turns = sorted({one.turn for one in observed})
    on_text = np.array([[float(one.turn == turn) for turn in turns] for one in observed])
    wholes = damages[:, : len(groups)].sum(axis=1)[:, None] * on_text
    tried = (
        _fitted(damages, wholes, klds, rest, [theta] * len(groups) + [phi] * len(types))
        for theta, phi in itertools.product(_STRAY, repeat=2)
    )
    solved, _ = min(tried, key=lambda one: float(np.square(one[1]).mean()))
    n = len(groups) + len(types)
    scale = max(_LEAST, 1 + float(solved[n:-1].mean()))
    found = np.clip((scale + solved[:n]) / scale, _LEAST, _MOST).tolist()
    return Factors(
        dict(zip(groups, found[: len(groups)], strict=True)),
        dict(zip(types, found[len(groups) :], strict=True)),
    )


def _named(each: Iterable[Mapping[str, float]]) -> list[str]:
    return sorted({name for one in each for name in one})


def _fitted(
    damages: NDArray[np.float64], wholes: NDArray[np.float64], klds: NDArray[np.float64],
    rest: float, stray: Sequence[float],
) -> tuple[Any, Any]:  # fmt: skip
    """(theta and phi of each column, scale - 1 of each text, c - rest), and how far each choice
    is from what the others predict, in units of a run's noise. `wholes` are the damages of all
    groups, by text."""
    import numpy as np

    weights = 1 / (_NOISE * klds)
    rows = np.column_stack([damages, wholes, np.ones(len(klds))]) * weights[:, None]
    wanted = (klds - wholes.sum(axis=1) - rest) * weights
    sds = np.array([*stray, *[_SCALE] * wholes.shape[1], _REST * klds.mean()])
    inverse = np.linalg.inv(rows.T @ rows + np.diag(1 / sds**2))
    solved = inverse @ rows.T @ wanted
    leverage = np.einsum("ij,jk,ik->i", rows, inverse, rows)
    return solved, (wanted - rows @ solved) / np.maximum(1 - leverage, 1e-9)
