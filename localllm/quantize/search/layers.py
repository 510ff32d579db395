"""How much more the answers suffer from error in some layers than in others.

Groups of tensors (`groups`) are a kind in a third of the layers: within one, layers differ too.
Each stretch of layers is quantized alone, all kinds at once, and its divergence divided by what
groups predict of it says how much its tensors count beside the others of their groups. So a
kind's sensitivity and a layer's are multiplied; to measure each kind in each layer would take a
run for every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_BLOCK = re.compile(r"^blk\.(\d+)\.")
MOST = 24  # stretches of layers
_TRUST = 0.9  # of a ratio's logarithm: a run on few tokens strays
_LEAST, _HIGHEST = 0.25, 4.0


def stretches(names: Iterable[str], n_layers: int, most: int = MOST) -> list[tuple[str, ...]]:
    """The tensors of consecutive layers, at most `most` lists of about as many layers."""
    n = min(most, max(1, n_layers))
    found: dict[int, list[str]] = {}
    for name in names:
        if match := _BLOCK.match(name):
            found.setdefault(min(n - 1, int(match[1]) * n // max(1, n_layers)), []).append(name)
    return [tuple(found[i]) for i in sorted(found)]


def factors_of(
    ratios: Mapping[tuple[str, ...], float],
    damages: Mapping[str, float],
    groups: Mapping[str, tuple[str, ...]],
) -> dict[str, float]:
    """By tensor, what its damage is multiplied by. `ratios` are measured over predicted
    divergence of each stretch; `damages` each tensor's share of the prediction. A group's sum
    stays what was measured of it."""
    raw = {
        name: min(_HIGHEST, max(_LEAST, ratio)) ** _TRUST
        for stretch, ratio in ratios.items()
        for name in stretch
    }
    found: dict[str, float] = {}
    for names in groups.values():
        known = {name: damages[name] for name in names if name in raw}
        whole = sum(known.values())
        if whole <= 0:
            continue
        mean = sum(raw[name] * damage for name, damage in known.items()) / whole
        found |= {name: raw[name] / mean for name in known}
    return found
