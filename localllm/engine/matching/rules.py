"""A grammar's rules as numbers: what its text was read into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]  # code points, both ends included, sorted, none touching
LAST_CODE = 0x10FFFF
ANY: Ranges = ((0, LAST_CODE),)


@dataclass(frozen=True, slots=True)
class TokenIs:
    """One token by its number, or any but that."""

    token: int
    negated: bool


Element = int | Ranges | TokenIs  # an int is a rule


@dataclass(frozen=True)
class Rules:
    """`alternatives` of each rule in turn, each a sequence of elements; the first is `root`."""

    names: Sequence[str]
    alternatives: Sequence[Sequence[Sequence[Element]]]
    root: int


def ranges(pairs: Sequence[tuple[int, int]], *, negated: bool = False) -> Ranges:
    """Sorted and joined. A pair that ends before it begins holds nothing."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(pair for pair in pairs if pair[0] <= pair[1]):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    if not negated:
        return tuple(joined)
    edges = [-1, *(edge for pair in joined for edge in pair), LAST_CODE + 1]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return tuple((low + 1, high - 1) for low, high in gaps if low + 1 <= high - 1)
