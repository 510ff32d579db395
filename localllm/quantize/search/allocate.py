"""Which type each tensor gets, so that the damage is least within a size.

A multiple-choice knapsack, solved exactly. Its linear relaxation bounds what any choice could
reach and says what a byte is worth; with that, nearly all types of nearly all tensors are ruled
out, and what is left is gone through by dynamic programming over lists of choices that no other
beats in size and damage (Pisinger, "A minimal algorithm for the multiple-choice knapsack
problem", 1995; Nemhauser and Ullmann, 1969, for the lists).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from localllm.errors import DoesNotFit
from localllm.ui import Bytes

# Lists of choices are cut to the most promising beyond this. A thousand tensors, their damages
# drawn at random, took 19,000 at most.
_MAX_STATES = 100_000


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
    relaxed = _Relaxed(useful)
    chosen = _filled(useful, relaxed.within(budget_bytes), budget_bytes)
    bound, worth = relaxed.bound(budget_bytes)
    if worth > 0:
        better = _least(useful, budget_bytes, worth, _damage(chosen) - bound)
        if better is not None and _damage(better) < _damage(chosen):
            chosen = better
    types = {item.name: option.type for item, option in zip(items, chosen, strict=True)}
    return Allocation(types, _size(chosen), _damage(chosen), min(bound, _damage(chosen)))


def pareto(options: Sequence[Option]) -> tuple[Option, ...]:
    """Smallest first; each one larger does less damage than all before."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.size_bytes, o.damage)):
        if not kept or option.damage < kept[-1].damage:
            kept.append(option)
    return tuple(kept)


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

    def within(self, room: int) -> list[Option]:
        """Whole steps only. `room` is that of the smallest options or more."""
        found = list(self._first)
        for _, i, better in self._steps[: self._taken(room)]:
            found[i] = better
        return found

    def bound(self, room: int) -> tuple[float, float]:
        """The least damage that any choice within `room` could have, and what one more byte
        would take off it: the multiplier of the Lagrangian dual."""
        n = self._taken(room)
        worth = -self._steps[n][0] if n < len(self._steps) else 0.0
        return self._damages[n] - worth * (room - self._sizes[n]), worth

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


def _filled(items: Sequence[Item], chosen: Sequence[Option], room: int) -> list[Option]:
    """`chosen` with tensors made better, what gains most first, for as long as one fits."""
    now = list(chosen)
    while items:
        left = room - _size(now)
        gain, i, option = max(
            (
                (now[i].damage - option.damage, i, option)
                for i, item in enumerate(items)
                for option in item.options
                if option.size_bytes - now[i].size_bytes <= left
            ),
            key=lambda found: found[0],
        )
        if gain <= 0:
            break
        now[i] = option
    return now


@dataclass(frozen=True)
class _Step:
    """One tensor's part in a list of choices: of each, which of the last list it extends, and
    by which of the tensor's options."""

    item: int
    extends: npt.NDArray[np.intp]
    option: npt.NDArray[np.intp]


def _least(items: Sequence[Item], room: int, worth: float, gap: float) -> list[Option] | None:
    """The choice of least damage within `room`, of those with less than `gap` over the bound;
    None where there is none.

    What an option costs over the tensor's best, with each byte priced at `worth`, adds up to no
    more than a choice's distance from the bound. So options that cost `gap` or more alone are in
    no such choice, and lists of choices lose those that cost as much together.
    """
    left: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], list[Option]]] = []
    for item in items:
        priced = [o.damage + worth * o.size_bytes for o in item.options]
        over = [price - min(priced) for price in priced]
        kept = [i for i, cost in enumerate(over) if cost < gap]
        options = [item.options[i] for i in kept]
        if not options:
            return None
        sizes = np.array([o.size_bytes for o in options], np.int64)
        left.append((sizes, np.array([over[i] for i in kept]), options))
    # Tensors whose type decides most first, so that little is left to differ by.
    order = sorted(range(len(items)), key=lambda i: -int(np.ptp(left[i][0])))
    needed = sum(int(sizes.min()) for sizes, _, _ in left)
    size, cost = np.zeros(1, np.int64), np.zeros(1)
    steps: list[_Step] = []
    for i in order:
        sizes, costs, _ = left[i]
        needed -= int(sizes.min())
        sums, total = np.add.outer(sizes, size).ravel(), np.add.outer(costs, cost).ravel()
        kept_ones = _unbeaten(sums, total, room - needed, worth, gap)
        steps.append(_Step(i, kept_ones % size.size, kept_ones // size.size))
        size, cost = sums[kept_ones], total[kept_ones]
        if not size.size:
            return None
    at = size.size - 1  # of choices that none beats the largest has the least damage
    found: dict[int, Option] = {}
    for step in reversed(steps):
        found[step.item] = left[step.item][2][step.option[at]]
        at = int(step.extends[at])
    return [found[i] for i in range(len(items))]


def _unbeaten(
    size: npt.NDArray[np.int64],
    cost: npt.NDArray[np.float64],
    room: int,
    worth: float,
    gap: float,
) -> npt.NDArray[np.intp]:
    """Which choices to go on with, by their size: those within `room` and `gap` that no other
    beats in size and damage, at most `_MAX_STATES` of least cost."""
    damage = cost - worth * size  # but for what is the same for all
    within = np.flatnonzero((size <= room) & (cost < gap))
    order: npt.NDArray[np.intp] = within[np.lexsort((damage[within], size[within]))]
    ahead = np.minimum.accumulate(np.append(np.inf, damage[order]))[:-1]
    order = order[damage[order] < ahead]
    if order.size > _MAX_STATES:
        order = order[np.sort(np.argpartition(cost[order], _MAX_STATES)[:_MAX_STATES])]
    return order


def _size(chosen: Sequence[Option]) -> int:
    return sum(option.size_bytes for option in chosen)


def _damage(chosen: Sequence[Option]) -> float:
    return math.fsum(option.damage for option in chosen)
