"""Which type each tensor gets, so that the damage is least within a size.

A multiple-choice knapsack. Its linear relaxation solves it to within one step of one tensor and
bounds what any choice could reach; the few tensors that are large beside the budget are tried
in all combinations; what room is left is filled by exchanges.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from localllm.errors import DoesNotFit
from localllm.ui import Bytes

_LARGE = 0.02  # of the budget: a tensor beyond this is enumerated
_MAX_COMBINATIONS = 400


@dataclass(frozen=True)
class Option:
    """One type for one tensor (or group of tensors). `damage` is additive over tensors, in any
    unit that is the same for all."""

    type: str
    size_bytes: int
    damage: float


@dataclass(frozen=True)
class Item:
    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Allocation:
    """The types chosen, by item. `bound` is a damage that no choice within the budget can be
    under, so `damage - bound` is the most that a better search could gain."""

    types: Mapping[str, str]
    size_bytes: int
    damage: float
    bound: float


def allocate(items: Sequence[Item], budget_bytes: int) -> Allocation:
    """The choice of least damage whose sizes sum to at most `budget_bytes`.

    Options that another one beats in size and damage are never taken. Raises DoesNotFit where
    even the smallest types exceed the budget, naming the least size there is.
    """
    useful = [Item(item.name, pareto(item.options)) for item in items]
    least = sum(item.options[0].size_bytes for item in useful)
    if least > budget_bytes:
        raise DoesNotFit(
            f"the smallest types there are take {Bytes(least)}, "
            f"{Bytes(least - budget_bytes)} more than the size asked for",
            f"ask for at least {Bytes(least)}, or allow smaller types",
        )
    large = _large(useful, budget_bytes)
    rest = [item for item in useful if item not in large]
    relaxed = _Relaxed(rest)
    # The most promising first: where the bound of what is left is no better, no choice is.
    tried = sorted(
        (
            (relaxed.bound(room) + _damage(fixed), room, fixed)
            for fixed in itertools.product(*(item.options for item in large))
            if (room := budget_bytes - _size(fixed)) >= relaxed.least_bytes
        ),
        key=lambda one: one[0],
    )
    best: list[Option] | None = None
    for bound, room, fixed in tried:
        if best is not None and bound >= _damage(best):
            break
        found = [*fixed, *_fill(rest, relaxed.within(room), room)]
        if best is None or _damage(found) < _damage(best):
            best = found
    assert best is not None  # the smallest of each is among the combinations
    order = [*large, *rest]
    best = _fill(order, best, budget_bytes)
    least_damage = min(_Relaxed(useful).bound(budget_bytes), _damage(best))
    chosen = {item.name: option.type for item, option in zip(order, best, strict=True)}
    return Allocation(
        {item.name: chosen[item.name] for item in items}, _size(best), _damage(best), least_damage
    )


def pareto(options: Sequence[Option]) -> tuple[Option, ...]:
    """Smallest first; each one larger does less damage than all before."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.size_bytes, o.damage)):
        if not kept or option.damage < kept[-1].damage:
            kept.append(option)
    return tuple(kept)


def _large(items: Sequence[Item], budget_bytes: int) -> list[Item]:
    """Those whose steps are too coarse for the relaxation, the largest first, as far as all
    combinations of their options can be tried."""

    def spread(item: Item) -> int:
        return item.options[-1].size_bytes - item.options[0].size_bytes

    found: list[Item] = []
    combinations = 1
    for item in sorted(items, key=spread, reverse=True):
        combinations *= len(item.options)
        if spread(item) < _LARGE * budget_bytes or combinations > _MAX_COMBINATIONS:
            break
        found.append(item)
    return found


class _Relaxed:
    """The choice if tensors could be split over types: the steps from each type to the next
    better one, along the lower convex hull, taken in the order of what a byte of them gains. The
    longest run of whole steps that fits is feasible; with a part of the next one it is the
    linear relaxation, whose damage bounds every choice (the Lagrangian dual has the same)."""

    def __init__(self, items: Sequence[Item]) -> None:
        hulls = [_hull(item.options) for item in items]
        self._first = [hull[0] for hull in hulls]
        steps = [
            ((b.damage - a.damage) / (b.size_bytes - a.size_bytes), i, b)
            for i, hull in enumerate(hulls)
            for a, b in itertools.pairwise(hull)
        ]
        self._steps = sorted(steps, key=lambda step: step[0])
        self._sizes, self._damages = [_size(self._first)], [_damage(self._first)]
        now = list(self._first)
        for _, i, better in self._steps:
            self._sizes.append(self._sizes[-1] + better.size_bytes - now[i].size_bytes)
            self._damages.append(self._damages[-1] + better.damage - now[i].damage)
            now[i] = better

    @property
    def least_bytes(self) -> int:
        return self._sizes[0]

    def within(self, room: int) -> list[Option]:
        """Whole steps only. `room` is `least_bytes` or more."""
        found = list(self._first)
        for _, i, better in self._steps[: self._taken(room)]:
            found[i] = better
        return found

    def bound(self, room: int) -> float:
        """The least damage that any choice within `room` could have."""
        n = self._taken(room)
        over = self._steps[n][0] * (room - self._sizes[n]) if n < len(self._steps) else 0.0
        return self._damages[n] + over

    def _taken(self, room: int) -> int:
        return bisect.bisect_right(self._sizes, room) - 1


def _hull(options: Sequence[Option]) -> list[Option]:
    """Those of a Pareto front that lie on its lower convex hull."""
    kept: list[Option] = []
    for option in options:
        while len(kept) > 1 and _above(kept[-2], kept[-1], option):
            kept.pop()
        kept.append(option)
    return kept


def _above(a: Option, b: Option, c: Option) -> bool:
    """Whether `b` lies on or above the line from `a` to `c`."""
    saved = (a.damage - b.damage) * (c.size_bytes - a.size_bytes)
    return saved <= (a.damage - c.damage) * (b.size_bytes - a.size_bytes)


def _fill(items: Sequence[Item], chosen: Sequence[Option], room: int) -> list[Option]:
    """Spend what room is left: one tensor made better, or one better and one worse, as long as
    the damage falls."""
    now = list(chosen)
    while True:
        left = room - _size(now)
        change = _one(items, now, left) or _two(items, now, left)
        if change is None:
            return now
        for i, option in change:
            now[i] = option


def _one(
    items: Sequence[Item], now: Sequence[Option], left: int
) -> list[tuple[int, Option]] | None:
    """The single exchange that gains most within `left` bytes."""
    gains = [
        (now[i].damage - option.damage, i, option)
        for i, option in _exchanges(items, now)
        if option.size_bytes - now[i].size_bytes <= left and option.damage < now[i].damage
    ]
    if not gains:
        return None
    _, i, option = max(gains, key=lambda g: g[0])
    return [(i, option)]


def _two(
    items: Sequence[Item], now: Sequence[Option], left: int
) -> list[tuple[int, Option]] | None:
    """The pair of exchanges, one up and one down, that gains most. Beside each way up only the
    cheapest way down that frees enough counts, so this is one sort and a search a way up."""
    downs = sorted(
        (now[i].size_bytes - o.size_bytes, o.damage - now[i].damage, i, o.type)
        for i, o in _exchanges(items, now)
        if o.size_bytes < now[i].size_bytes
    )
    freed = [d[0] for d in downs]
    cheapest = _suffix_two_cheapest(downs)
    best: tuple[float, list[tuple[int, Option]]] | None = None
    for i, up in _exchanges(items, now):
        gain, needed = now[i].damage - up.damage, up.size_bytes - now[i].size_bytes - left
        if gain <= 0 or needed <= 0:
            continue
        at = bisect.bisect_left(freed, needed)
        down = next((d for d in cheapest[at] if d[2] != i), None) if at < len(downs) else None
        # Tiny gains are rounding, and would let this run in circles.
        if down is None or gain - down[1] <= 1e-12 * abs(gain):
            continue
        if best is None or gain - down[1] > best[0]:
            other = next(o for o in items[down[2]].options if o.type == down[3])
            best = gain - down[1], [(i, up), (down[2], other)]
    return best[1] if best else None


_Down = tuple[int, float, int, str]


def _suffix_two_cheapest(downs: Sequence[_Down]) -> list[list[_Down]]:
    """From each place on, the two that cost least, of different tensors."""
    found: list[list[_Down]] = [[]]
    for down in reversed(downs):
        two = sorted([*found[-1], down], key=lambda d: d[1])
        kept = two[:1] + [d for d in two[1:] if d[2] != two[0][2]][:1]
        found.append(kept)
    return found[:0:-1]


def _exchanges(items: Sequence[Item], now: Sequence[Option]) -> Iterator[tuple[int, Option]]:
    for i, item in enumerate(items):
        for option in item.options:
            if option is not now[i]:
                yield i, option


def _size(chosen: Sequence[Option]) -> int:
    return sum(option.size_bytes for option in chosen)


def _damage(chosen: Sequence[Option]) -> float:
    return math.fsum(option.damage for option in chosen)
