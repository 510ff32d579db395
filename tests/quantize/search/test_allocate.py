"""The allocation against every choice there is, on problems small enough to try them all."""

from __future__ import annotations

import itertools
import math
import random
import time
from dataclasses import replace

import pytest

from localllm.errors import DoesNotFit
from localllm.quantize.search.allocate import Item, Option, allocate

BITS = {"q2": 2.6, "q3": 3.4, "q4": 4.5, "q5": 5.5, "q6": 6.6, "q8": 8.5}


def problem(seed: int, sizes: list[int]) -> list[Item]:
    """Tensors whose damage falls by about four a bit, as quantization error does, unevenly."""
    rng = random.Random(seed)
    items = []
    for n, size in enumerate(sizes):
        scale = rng.lognormvariate(0, 1.5)
        options = tuple(
            Option(name, int(size * bits / 8), scale * 4**-bits * rng.uniform(0.7, 1.4))
            for name, bits in BITS.items()
        )
        items.append(Item(f"t{n}", options))
    return items


def brute(items: list[Item], budget: int) -> float:
    return min(
        sum(o.damage for o in choice)
        for choice in itertools.product(*(i.options for i in items))
        if sum(o.size_bytes for o in choice) <= budget
    )


@pytest.mark.parametrize("seed", range(25))
def test_the_best_of_all_choices(seed: int) -> None:
    rng = random.Random(1000 + seed)
    items = problem(seed, [rng.choice([40_000, 60_000, 600_000]) for _ in range(6)])
    total = sum(i.options[-1].size_bytes for i in items)
    budget = int(total * rng.uniform(0.35, 0.9))
    found = allocate(items, budget)
    best = brute(items, budget)
    assert found.size_bytes <= budget
    assert found.bound <= best * (1 + 1e-9)
    assert found.damage == pytest.approx(best, rel=1e-9)
    # what it says is what it chose
    chosen = [next(o for o in i.options if o.type == found.types[i.name]) for i in items]
    assert sum(o.size_bytes for o in chosen) == found.size_bytes
    assert sum(o.damage for o in chosen) == pytest.approx(found.damage)


def test_a_model_of_many_tensors_uses_its_budget() -> None:
    sizes = [262_144 * 4096] + [4096 * 14336] * 96 + [4096 * 4096] * 64 + [1024 * 4096] * 64
    items = problem(3, sizes)
    budget = int(sum(sizes) * 4.5 / 8)
    began = time.perf_counter()
    found = allocate(items, budget)
    assert time.perf_counter() - began < 20  # about 0.02 s: not a benchmark, but no explosion
    assert 0.9995 * budget <= found.size_bytes <= budget
    assert found.damage <= found.bound * 1.001


def whole_numbers(seed: int) -> tuple[list[Item], int]:
    """Sixteen tensors whose sizes are multiples of 32 bytes, as of a very small model."""
    rng = random.Random(seed)
    items = problem(seed, [rng.choice([32_768, 65_536, 131_072]) for _ in range(16)])
    rounded = [
        Item(i.name, tuple(replace(o, size_bytes=o.size_bytes // 32 * 32) for o in i.options))
        for i in items
    ]
    total = sum(i.options[-1].size_bytes for i in rounded)
    return rounded, int(total * rng.uniform(0.35, 0.95))


@pytest.mark.parametrize("seed", range(20))
def test_the_best_where_there_are_too_many_to_try(seed: int) -> None:
    items, budget = whole_numbers(seed)
    best = [0.0] + [math.inf] * (budget // 32)  # by size, in 32 bytes: the textbook's table
    for item in items:
        best = [
            min(
                (
                    best[at - o.size_bytes // 32] + o.damage
                    for o in item.options
                    if o.size_bytes // 32 <= at
                ),
                default=math.inf,
            )
            for at in range(len(best))
        ]
    found = allocate(items, budget)
    assert found.damage == pytest.approx(min(best), rel=1e-9)
    assert found.size_bytes <= budget


def test_lists_that_would_grow_too_long_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    items, budget = whole_numbers(3)
    best = allocate(items, budget)
    monkeypatch.setattr("localllm.quantize.search.allocate._MAX_STATES", 4)
    found = allocate(items, budget)
    assert found.size_bytes <= budget
    assert best.damage <= found.damage <= best.damage * 1.2


def test_nothing_to_choose() -> None:
    assert allocate([], 100).types == {}


def test_ends_of_the_range() -> None:
    items = problem(1, [1000, 2000])
    least = sum(i.options[0].size_bytes for i in items)
    most = sum(i.options[-1].size_bytes for i in items)
    assert allocate(items, least).size_bytes == least
    assert set(allocate(items, most + 10**9).types.values()) == {"q8"}
    with pytest.raises(DoesNotFit):
        allocate(items, least - 1)


def test_a_type_that_is_larger_and_worse_is_never_taken() -> None:
    item = Item("t", (Option("bad", 90, 2.0), Option("good", 80, 1.0)))
    assert allocate([item], 100).types == {"t": "good"}


def test_the_same_every_time() -> None:
    items = problem(5, [50_000] * 30)
    assert allocate(items, 800_000) == allocate(items, 800_000)
