"""Dealing a row of slots out to devices in order: does it fit, and which way is best."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

PICO = 10**12


def first_fit(
    slots: Sequence[int], rooms: Sequence[int], compute: int, last_compute: int
) -> list[int] | None:
    """How many slots each device takes when each takes all it can, None when some are left.

    The slots stay in order. A device that takes any needs `compute` on top, the one that takes
    the last slot `last_compute` too. Taking all one can never hurts the devices after it, so
    this finds a way whenever there is one. A room below 0 (not even the fixed part fits) is
    None as well.
    """
    if any(room < 0 for room in rooms):
        return None
    counts = []
    at = 0
    for room in rooms:
        used, end = compute, at
        while end < len(slots):
            last = last_compute if end == len(slots) - 1 else 0
            if used + slots[end] + last > room:
                break
            used += slots[end]
            end += 1
        counts.append(end - at)
        at = end
    return counts if at == len(slots) else None


# (picoseconds to read a token, devices used, how full the fullest is): smaller is better, in
# this order. All three only grow along a path, so the best way to any point begins with the
# best way to an earlier one. Picoseconds are whole numbers so that equal really is equal.
Score = tuple[int, int, float]


def deal(
    slots: Sequence[int],
    rooms: Sequence[int],
    compute: int,
    last_compute: int,
    bandwidths: Sequence[int] | None,
) -> list[int]:
    """The best way to deal out `slots`; [] when there is none.

    Best is: read in the least time (bytes over each device's bandwidth, one device after the
    other; all alike when `bandwidths` is None), then on the fewest devices, then with the
    fullest device least full. Dynamic programming over (device, slots dealt): O(D n^2).
    """
    n = len(slots)
    sums = [0, *accumulate(slots)]
    best: list[Score | None] = [(0, 0, 0.0)] + [None] * n
    steps: list[list[int]] = []
    for number, room in enumerate(rooms):
        speed = bandwidths[number] if bandwidths else 0
        costs = [slot * PICO // speed if speed else 0 for slot in slots]
        best, taken = _one_more(best, sums, [0, *accumulate(costs)], room, (compute, last_compute))
        steps.append(taken)
    if best[n] is None:
        return []
    counts = []
    for taken in reversed(steps):
        counts.append(taken[n])
        n -= taken[n]
    return counts[::-1]


def _one_more(
    best: list[Score | None],
    sums: Sequence[int],
    times: Sequence[int],
    room: int,
    compute: tuple[int, int],
) -> tuple[list[Score | None], list[int]]:
    """The best scores with one more device, and how many slots it takes in each.

    `best[i]` is the score of having dealt the first i slots to the devices before.
    """
    n = len(best) - 1
    scores, taken = list(best), [0] * (n + 1)  # taking none is always possible
    for start, before in enumerate(best):
        if before is None:
            continue
        for end in range(start + 1, n + 1):
            used = sums[end] - sums[start] + compute[0] + (compute[1] if end == n else 0)
            if used > room:
                break
            fullest = max(before[2], used / room if room else 0.0)
            score = (before[0] + times[end] - times[start], before[1] + 1, fullest)
            held = scores[end]
            if held is None or score < held:
                scores[end], taken[end] = score, end - start
    return scores, taken
