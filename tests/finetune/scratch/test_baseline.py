"""The baselines, computed again in another way."""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict

import numpy as np
import pytest

from localllm.finetune.scratch.baseline import Counted, bits_per_byte, compressed, grams

V = 12


def sequences(n: int, seed: int) -> list[np.ndarray[tuple[int], np.dtype[np.int32]]]:
    draw = np.random.default_rng(seed)
    shares = draw.dirichlet(np.ones(V - 1) / 2)
    return [
        np.concatenate([[0], draw.choice(np.arange(1, V), draw.integers(3, 12), p=shares)]).astype(
            np.int32
        )
        for _ in range(n)
    ]


def by_hand(train: list[list[int]], u: int, v: int, w: int) -> float:
    """Interpolated Kneser-Ney of order 3 with dictionaries, as Chen and Goodman write it."""
    tri = Counter(
        (s[max(0, i - 2)], s[i - 1], s[i]) for s in train for i in range(1, len(s))
    )  # fmt: skip
    ways2: dict[tuple[int, int], set[int]] = defaultdict(set)
    for a, b, c in tri:
        ways2[b, c].add(a)
    two = {key: len(firsts) for key, firsts in ways2.items()}
    one = Counter(c for _, c in two)

    def discount(counts: list[int]) -> float:
        n1, n2 = counts.count(1), counts.count(2)
        return n1 / (n1 + 2 * n2) if n1 and n2 else 0.5

    d1, d2, d3 = (discount(list(c.values())) for c in (one, two, tri))
    p1 = (max(one[w] - d1, 0) + d1 * len(one) / V) / sum(one.values())
    after = {c: n for (b, c), n in two.items() if b == v}
    if not after:
        p2 = p1
    else:
        p2 = (max(after.get(w, 0) - d2, 0) + d2 * len(after) * p1) / sum(after.values())
    follow = {c: n for (a, b, c), n in tri.items() if (a, b) == (u, v)}
    if not follow:
        return p2
    return (max(follow.get(w, 0) - d3, 0) + d3 * len(follow) * p2) / sum(follow.values())


def test_three_in_a_row_by_hand() -> None:
    train, held = sequences(60, 1), sequences(8, 2)
    counted, asked = Counted(grams(train), V), grams(held)
    found = np.exp(-counted.trigram(asked))
    lists = [one.tolist() for one in train]
    want = [
        by_hand(lists, s[max(0, i - 2)], s[i - 1], s[i])
        for s in (one.tolist() for one in held)
        for i in range(1, len(s))
    ]
    assert found == pytest.approx(want, rel=1e-9)


def test_probabilities_add_up_to_one() -> None:
    counted = Counted(grams(sequences(60, 1)), V)
    for u, v in [(0, 0), (0, 3), (3, 4), (V - 1, V - 1)]:
        every = grams([np.array([u, v, w], dtype=np.int32) for w in range(V)])
        total = np.exp(-counted.trigram(every))[1::2].sum()  # of each the last: w after u, v
        assert total == pytest.approx(1.0, abs=1e-9)


def test_counting_alone_by_hand() -> None:
    train, held = sequences(60, 1), sequences(8, 2)
    counts = Counter(int(t) for one in train for t in one[1:])
    total = sum(counts.values())
    want = [-math.log((counts[int(t)] + 1) / (total + V)) for one in held for t in one[1:]]
    assert Counted(grams(train), V).unigram(grams(held)) == pytest.approx(want)


def test_compression_knows_what_it_has_read() -> None:
    held = b"the quick brown fox jumps over the lazy dog; " * 3 + bytes(range(60))
    plain, before = compressed(b"nothing of it here " * 50, held)
    _, known = compressed(b"nothing " * 50 + held, held)
    assert plain.bits_per_byte == 8 * len(zlib.compress(held, 9)) / len(held)
    assert known.bits_per_byte < before.bits_per_byte / 4
    assert bits_per_byte(math.log(2) * 8, 1) == pytest.approx(8.0)
