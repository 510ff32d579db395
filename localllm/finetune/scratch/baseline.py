"""What others make of the same held-out text, so that bits per byte mean something.

zlib is what a text costs anyway. xz that has read the training text before it knows every phrase
of it. Counting tokens, alone and three in a row, is what a model was before neural ones.
"""

from __future__ import annotations

import lzma
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
XZ_BYTES = 8 << 20  # of training text: about a second a megabyte
GRAM_TOKENS = 20_000_000


@dataclass(frozen=True)
class Baseline:
    """`bits_per_byte` of the held-out text."""

    name: str
    bits_per_byte: float


def compressed(train: bytes, held: bytes) -> tuple[Baseline, ...]:
    """zlib of `held` alone, xz of it behind (the last of) `train`."""
    before = train[-XZ_BYTES:]
    with_both, alone = (_xz(data) for data in (before + held, before))
    return (
        Baseline("zlib", 8 * len(zlib.compress(held, 9)) / len(held)),
        Baseline("xz after the training text", 8 * max(0, with_both - alone) / len(held)),
    )


def _xz(data: bytes) -> int:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 24}]
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=filters))


@dataclass(frozen=True)
class Grams:
    """Three tokens in a row of sequences: `first` and `second` before `third`. Before the
    beginning of a sequence stands its first token."""

    first: Ids
    second: Ids
    third: Ids


def grams(sequences: list[NDArray[np.int32]]) -> Grams:
    """Of every token but the first of each sequence."""
    flat = np.concatenate(sequences).astype(np.int64)
    starts = np.cumsum([0, *(len(one) for one in sequences[:-1])])
    is_start = np.zeros(len(flat), dtype=bool)
    is_start[starts] = True
    second, first = np.roll(flat, 1), np.roll(flat, 2)
    after_start = np.roll(is_start, 1)
    first = np.where(after_start, second, first)
    return Grams(first[~is_start], second[~is_start], flat[~is_start])


class Counted:
    """Tokens of the training text counted: alone, and three in a row with interpolated
    Kneser-Ney smoothing (Chen and Goodman 1999, section 4.1.6), one discount an order."""

    def __init__(self, train: Grams, n_vocab: int) -> None:
        self.n = n_vocab
        pairs = train.first * n_vocab + train.second
        self.tri, tri_counts = np.unique(pairs * n_vocab + train.third, return_counts=True)
        self.tri_counts = tri_counts.astype(np.float64)
        # an order below counts in how many ways something can be reached, not how often
        self.bi, bi_ways = np.unique(self.tri % n_vocab**2, return_counts=True)
        self.bi_ways = bi_ways.astype(np.float64)
        self.uni_ways = np.bincount(self.bi % n_vocab, minlength=n_vocab).astype(np.float64)
        self.alone = np.bincount(train.third, minlength=n_vocab).astype(np.float64)
        self.after_two = _Context(self.tri // n_vocab, self.tri_counts)
        self.after_one = _Context(self.bi // n_vocab, self.bi_ways)

    def unigram(self, held: Grams) -> NDArray[np.float64]:
        """-log of each token's probability, each token once more than it came."""
        shares = (self.alone + 1) / (self.alone.sum() + self.n)
        return np.asarray(-np.log(shares[held.third]))

    def trigram(self, held: Grams) -> NDArray[np.float64]:
        """-log of each token's probability after the two before it."""
        pair = held.second * self.n + held.third
        before = held.first * self.n + held.second
        low = self.uni_ways
        d1 = _discount(low[low > 0])
        found = (np.maximum(low - d1, 0) + d1 * (low > 0).sum() / self.n) / low.sum()
        below = self.after_one.mixed(
            held.second, _at(self.bi, self.bi_ways, pair), found[held.third]
        )
        count = _at(self.tri, self.tri_counts, before * self.n + held.third)
        return np.asarray(-np.log(self.after_two.mixed(before, count, below)))


class _Context:
    """Sums over what follows a context: how much, and how many kinds."""

    def __init__(self, contexts: Ids, counts: NDArray[np.float64]) -> None:
        self.keys, inverse = np.unique(contexts, return_inverse=True)
        self.total = np.bincount(inverse, counts).astype(np.float64)
        self.kinds = np.bincount(inverse).astype(np.float64)
        self.discount = _discount(counts)

    def mixed(self, contexts: Ids, counts: Any, below: Any) -> Any:
        """Discounted counts, and what was taken off them in the shares of the order below;
        those alone where the context never came."""
        total, kinds = (_at(self.keys, values, contexts) for values in (self.total, self.kinds))
        safe = np.maximum(total, 1)
        seen = (np.maximum(counts - self.discount, 0) + self.discount * kinds * below) / safe
        return np.where(total > 0, seen, below)


def _discount(counts: NDArray[np.float64]) -> float:
    """n1 / (n1 + 2 n2): what is taken off every count."""
    once, twice = float((counts == 1).sum()), float((counts == 2).sum())
    return once / (once + 2 * twice) if once and twice else 0.5


def _at(keys: Ids, values: NDArray[np.float64], wanted: Ids) -> NDArray[np.float64]:
    """`values` of the sorted `keys` at `wanted`, 0 for those that are not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.asarray(np.where(keys[places] == wanted, values[places], 0.0))


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """`nats` in all, over so many bytes."""
    return nats / math.log(2) / max(1, n_bytes)
