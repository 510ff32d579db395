"""The book of cells against the plainest possible model of it."""

from __future__ import annotations

import random

from localllm.engine.scheduler.cells import CellBook


def test_shared_cells_count_once() -> None:
    book = CellBook(100)
    book.grow(0, 40)
    book.share(0, 1, 30)
    assert (book.used, book.length(1), book.own(0), book.own(1)) == (40, 30, 10, 0)
    book.grow(1, 5)
    book.grow(0, 5)
    assert (book.used, book.free) == (50, 50)
    book.remove(0)
    assert (book.used, book.length(1)) == (35, 35)
    book.cut(1, 10)
    assert (book.used, book.length(1)) == (10, 10)
    book.remove(1)
    assert book.used == 0


def test_any_order_of_growing_sharing_and_cutting() -> None:
    """Each cell as a set of owners, which is what llama.cpp keeps."""
    for seed in range(60):
        rng = random.Random(seed)
        book, cells = CellBook(1 << 30), dict[int, list[int]]()  # sequence -> its cells, in order
        n_cells = 0
        for _ in range(120):
            act, one, other = rng.randrange(4), rng.randrange(5), rng.randrange(5)
            held = cells.setdefault(one, [])
            if act == 0:
                n = rng.randrange(1, 20)
                book.grow(one, n)
                held += range(n_cells, n_cells + n)
                n_cells += n
            elif act == 1 and one != other:
                n = rng.randrange(len(held) + 1)
                book.share(one, other, n)
                cells[other] = held[:n]
            elif act == 2:
                n = rng.randrange(len(held) + 5)
                book.cut(one, n)
                cells[one] = held[:n]
            elif act == 3:
                book.remove(one)
                cells[one] = []
            assert book.used == len(set().union(*cells.values()))
            for sequence, its in cells.items():
                others = set().union(*(c for s, c in cells.items() if s != sequence))
                assert book.length(sequence) == len(its)
                assert book.own(sequence) == len(set(its) - others)
