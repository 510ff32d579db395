"""What is trained on, and what is held back to judge by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.finetune.data.preparing import Prepared


@dataclass(frozen=True, eq=False)
class Split:
    """`held_out` is empty where nothing could be held back (see `why`)."""

    train: Prepared
    held_out: Prepared
    why: str = ""


def split(
    prepared: Prepared, *, fraction: float = 0.0, count: int | None = None, seed: int = 0
) -> Split:
    """Hold back `count` examples, or the `fraction` of them, at least one where anything is asked.

    Chosen by what rows say and `seed` alone: the order of rows and how many others there are of
    a kind do not matter, and rows that say the same are never on both sides, nor are the parts
    of one row. Only chunks of fewer than 20 documents are each chosen alone, or there would be
    none to hold back. As whole rows are taken, it can be a little less or, for want of smaller
    ones, more than was asked. At least one group is always left to train on.
    Raises UsageProblem for a fraction that is none.
    """
    n = len(prepared)
    if not 0 <= fraction < 1:
        raise UsageProblem(f"{fraction:g} is no share of examples to hold back")
    wanted = round(n * fraction) if count is None else count
    if count is None and fraction > 0:
        wanted = max(1, wanted)
    if wanted < 0:
        raise UsageProblem(f"{wanted} examples cannot be held back")
    groups, sizes = np.unique(prepared.rows.groups, return_counts=True)
    if wanted and len(groups) < 2:
        return Split(prepared, prepared.select(_none()), "all rows say the same: none is held back")
    held = chosen(groups, sizes, wanted, seed)
    mask = np.isin(prepared.rows.groups, held)
    places = np.arange(n)
    return Split(prepared.select(places[~mask]), prepared.select(places[mask]))


def chosen(
    groups: np.ndarray[tuple[int], np.dtype[np.int64]],
    sizes: np.ndarray[tuple[int], np.dtype[np.int64]],
    wanted: int,
    seed: int,
) -> list[int]:
    """Groups in an order that a digest with the seed gives, until there are enough."""

    def drawn(group: int) -> bytes:
        return hashlib.blake2b(f"{seed} {group}".encode(), digest_size=16).digest()

    order = sorted(zip(groups.tolist(), sizes.tolist(), strict=True), key=lambda g: drawn(g[0]))
    held: list[int] = []
    left = wanted
    for group, size in order[: len(order) - 1]:
        if left <= 0:
            break
        if size <= left or not held:
            held.append(group)
            left -= size
    return held


def _none() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.zeros(0, dtype=np.int64)
