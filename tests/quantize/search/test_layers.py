"""Layers that count for more than others of their group."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from localllm.quantize.search.groups import grouped
from localllm.quantize.search.layers import MOST, factors_of, stretches
from localllm.quantize.search.search import Search
from tests.quantize.search.test_search import KINDS, N_LAYERS, TYPES, damages, even

NAMES = [f"blk.{i}.{kind}.weight" for i in range(6) for kind in ("attn_q", "ffn_up")]


def test_stretches_are_consecutive_layers_and_leave_out_what_has_none() -> None:
    each = stretches([*NAMES, "output.weight"], 6)
    assert each == [tuple(NAMES[i : i + 2]) for i in range(0, 12, 2)]
    deep = [f"blk.{i}.attn_q.weight" for i in range(100)]
    few = stretches(deep, 100)
    assert len(few) == MOST
    assert [name for names in few for name in names] == deep
    assert {len(names) for names in few} == {4, 5}


def test_a_group_keeps_its_sum() -> None:
    ratios = {names: 2.0 if i % 2 else 0.5 for i, names in enumerate(stretches(NAMES, 6))}
    alone = {name: 0.01 * (1 + i) for i, name in enumerate(NAMES)}
    found = factors_of(ratios, alone, grouped(NAMES, 6, 3))
    for names in grouped(NAMES, 6, 3).values():
        whole = sum(alone[name] for name in names)
        assert sum(found[name] * alone[name] for name in names) == pytest.approx(whole)
        even_layer, odd_layer = (found[name] for name in names)
        assert 2.5 < odd_layer / even_layer <= 4.0  # most of what was measured


def test_what_was_measured_of_nothing_changes_nothing() -> None:
    assert factors_of({}, {}, grouped(NAMES, 6, 3)) == {}
    zero = dict.fromkeys(stretches(NAMES, 6), 0.0)
    found = factors_of(zero, dict.fromkeys(NAMES, 0.01), grouped(NAMES, 6, 3))
    assert list(found.values()) == pytest.approx([1.0] * len(NAMES))


def test_layers_that_count_for_more_get_the_bits() -> None:
    """Odd layers count four times what even ones do: a third of the layers knows nothing of it."""

    def measure(types: Mapping[str, str]) -> float:
        def weight(name: str) -> float:
            return 1.6 if int(name.split(".")[1]) % 2 else 0.4

        return sum(weight(name) * TYPES[kind] for name, kind in types.items())

    budget = (even("q3_k") + even("q4_k")) // 2
    search = Search(damages(), N_LAYERS, measure=measure)
    found = search.find(budget)
    assert found.size_bytes <= budget
    blind = Search(damages(), N_LAYERS).find(budget)
    assert measure(found.types) < 0.85 * measure(blind.types)
    assert found.predicted == pytest.approx(measure(found.types), rel=0.1)
    known = search.runs
    search.find(even("q4_k"))
    assert search.runs - known < N_LAYERS + len(KINDS)  # layers are measured once
