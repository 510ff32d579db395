"""How many sequences had best have their next token in one step: learned from how long steps take.

Time does not grow evenly with the rows of a batch. CPU kernels compute a few of them together, and
what is left over costs a pass over the weights of its own. Gemma 3 270M on two cores, milliseconds:
12 rows 119, 13 rows 153, 15 rows 167, 16 rows 144, 17 rows 182 where its weights are Q8_0 and Q5_0
(tiles of four); 15 rows 148, 16 rows 133, 17 rows 189, 32 rows 234 where they are K-quants (tiles
of sixteen). Other weights, processors and GPUs have other steps or none, so nothing of it is
assumed but that a multiple of these may be a good number.
"""

from __future__ import annotations

from collections import deque
from statistics import median

_TILES = (16, 4)
_KEPT = 5  # steps of each size: their median bears two that something else disturbed
_ENOUGH = 3
_AGAIN = 32  # choices after which one that was not taken is measured again
_WORTH = 1.04  # times as many tokens a second, for leaving somebody out


class RowTimes:
    """Of steps in which everyone had one token computed, and nothing else was."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        self._n_choices: dict[int, int] = {}

    def took(self, n_rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        self._seconds.setdefault(n_rows, deque(maxlen=_KEPT)).append(seconds)

    def best(self, n_ready: int) -> int:
        """How many of `n_ready` to take: all, or fewer where that makes more tokens a second.

        Each size is tried a few times before it is judged, and now and then later.
        """
        sizes = [n_ready, *(n for tile in _TILES if 0 < (n := n_ready - n_ready % tile) < n_ready)]
        if len(sizes) == 1:
            return n_ready
        for n in sizes:
            if len(self._seconds.get(n, ())) < _ENOUGH:
                return n
        number = self._n_choices[n_ready] = self._n_choices.get(n_ready, 0) + 1
        if number % _AGAIN == 0:
            return sizes[number // _AGAIN % len(sizes)]
        rates = {n: n / median(self._seconds[n]) for n in sizes}
        fastest = max(sizes, key=lambda n: rates[n])
        return fastest if rates[fastest] > _WORTH * rates[n_ready] else n_ready

    def padded(self, n_rows: int, most: int) -> int:
        """How many rows, `n_rows` to `most`, are computed in the least time: some that nobody
        wants may fill a tile up. `n_rows` where that is not known."""
        if len(self._seconds.get(n_rows, ())) < _ENOUGH:
            return n_rows
        sizes = [n_rows, *(n_rows + -n_rows % tile for tile in _TILES)]
        known = [n for n in sizes if n <= most and len(self._seconds.get(n, ())) >= _ENOUGH]
        return min(known, key=lambda n: median(self._seconds[n]), default=n_rows)
