"""The search against models of damage whose best choice can be computed."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from localllm.engine.ggml_types import row_type
from localllm.errors import DoesNotFit
from localllm.quantize.search.search import Search
from localllm.quantize.search.sensitivity import Damage

TYPES = {"iq2_s": 0.08, "q2_k": 0.07, "q3_k": 0.02, "q4_k": 0.005, "q5_k": 0.0012, "q6_k": 0.0003}
KINDS = ("attn_q", "attn_k", "ffn_down")
N_LAYERS = 6
ROWS, COLUMNS = 64, 512


def damages() -> dict[str, tuple[Damage, ...]]:
    size = {kind: ROWS * row_type(kind).row_bytes(COLUMNS) for kind in TYPES}
    return {
        f"blk.{i}.{kind}.weight": tuple(
            Damage(f"blk.{i}.{kind}.weight", t, size[t], error) for t, error in TYPES.items()
        )
        for kind in KINDS
        for i in range(N_LAYERS)
    }


def even(kind: str) -> int:
    """The bytes of all tensors in one type."""
    return len(KINDS) * N_LAYERS * ROWS * row_type(kind).row_bytes(COLUMNS)


class Model:
    """A divergence that is additive but for what attn_k does below three bits."""

    def __init__(self, weight: Mapping[str, float], cliff: float = 0.0) -> None:
        self.weight, self.cliff = weight, cliff
        self.seen: list[dict[str, str]] = []

    def __call__(self, types: Mapping[str, str]) -> float:
        self.seen.append(dict(types))
        return self.of(types)

    def of(self, types: Mapping[str, str]) -> float:
        total = 0.0
        for name, kind in types.items():
            what = name.split(".")[2]
            total += self.weight[what] * TYPES[kind]
            if what == "ffn_down" and TYPES[kind] > 0.05:
                total += self.cliff
        return total


LEGACY = {"q4_0": 0.006, "q5_0": 0.0015, "q5_1": 0.0011, "q8_0": 2e-5}


def test_types_whose_kernels_round_less_are_taken_where_that_is_what_hurts() -> None:
    """ffn_down loses 0.01 a tensor to any type of blocks of 256, attn_q nothing: the five bits of
    blocks of 32 are better for the one and no better for the other."""
    errors = TYPES | LEGACY
    size = {t: ROWS * row_type(t).row_bytes(COLUMNS) for t in errors}
    names = [f"blk.{i}.{kind}.weight" for kind in ("attn_q", "ffn_down") for i in range(N_LAYERS)]
    both = {n: tuple(Damage(n, t, size[t], errors[t]) for t in errors) for n in names}

    def measure(types: Mapping[str, str]) -> float:
        rounded = [n for n, t in types.items() if "down" in n and row_type(t).block_elements == 256]
        return sum(errors[t] for t in types.values()) + 0.01 * len(rounded)

    found = Search(both, N_LAYERS, measure=measure).find(len(names) * size["q5_k"])
    chosen = {n: row_type(t).block_elements for n, t in found.types.items()}
    assert {chosen[n] for n in names if "down" in n} == {32}
    assert {chosen[n] for n in names if "attn_q" in n} == {256}
    assert found.kld == pytest.approx(found.predicted, rel=0.05)
    blind = Search(both, N_LAYERS).find(len(names) * size["q5_k"])
    assert measure(found.types) < 0.6 * measure(blind.types)


def test_a_choice_a_little_too_large_is_changed_in_one_tensor() -> None:
    search = Search(damages(), N_LAYERS, measure=Model(dict.fromkeys(KINDS, 1.0)))
    found = search.find(even("q4_k"))
    for bytes_over in (1, 100, 1000):
        types = search.trimmed(found.types, bytes_over)
        changed = [name for name in types if types[name] != found.types[name]]
        assert len(changed) == 1
        assert search.model.size_bytes(types) <= found.size_bytes - bytes_over
        # no other single change that saves as much loses less
        loss = search.model.predicted(types) - search.model.predicted(found.types)
        for name, options in damages().items():
            for option in options:
                other = {**found.types, name: option.type}
                if search.model.size_bytes(other) <= found.size_bytes - bytes_over:
                    more = search.model.predicted(other) - search.model.predicted(found.types)
                    assert more >= loss - 1e-12
    far = search.trimmed(found.types, found.size_bytes // 4)
    assert search.model.size_bytes(far) <= found.size_bytes - found.size_bytes // 4


def test_what_matters_gets_the_bits() -> None:
    model = Model({"attn_q": 0.1, "attn_k": 1.0, "ffn_down": 10.0})
    found = Search(damages(), N_LAYERS, measure=model).find(even("q4_k"))
    bits = {"q2_k": 2, "iq2_s": 2, "q3_k": 3, "q4_k": 4, "q5_k": 5, "q6_k": 6}
    mean = {k: sum(bits[t] for n, t in found.types.items() if k in n) / N_LAYERS for k in KINDS}
    assert mean["ffn_down"] > mean["attn_k"] > mean["attn_q"]
    assert 0.995 * even("q4_k") <= found.size_bytes <= even("q4_k")
    assert found.kld == pytest.approx(model.of(found.types))
    assert found.predicted == pytest.approx(model.of(found.types))
    assert found.bound <= found.predicted
    assert found.kld is not None
    assert found.kld < 0.5 * model.of(dict.fromkeys(damages(), "q4_k"))


def test_the_errors_alone_take_all_tensors_alike() -> None:
    found = Search(damages(), N_LAYERS).find(even("q4_k"))
    assert set(found.types.values()) == {"q4_k"}
    assert (found.kld, found.runs) == (None, 0)
    assert all(g.kld is None for g in found.groups)


def test_a_cliff_that_errors_do_not_show_is_measured_and_kept_away_from() -> None:
    """At three bits all is well; the first choice below is far off, measured, and corrected."""
    model = Model({"attn_q": 1.0, "attn_k": 3.0, "ffn_down": 0.05}, cliff=0.3)
    found = Search(damages(), N_LAYERS, measure=model).find(even("q3_k"))
    low = [n for n, t in found.types.items() if "ffn_down" in n and TYPES[t] > 0.05]
    assert not low
    assert found.kld is not None
    assert found.kld <= model.of(dict.fromkeys(damages(), "q3_k"))


def test_attn_k_stays_at_three_bits_or_more() -> None:
    low = ("q2_k", "iq2_s")
    found = Search(damages(), N_LAYERS).find(int(1.15 * even("q2_k")))
    assert all(t not in low for n, t in found.types.items() if "attn_k" in n)
    assert any(t in low for t in found.types.values())
    # ... unless nothing else is small enough
    least = Search(damages(), N_LAYERS).find(even("iq2_s"))
    assert set(least.types.values()) == {"iq2_s"}


def test_pinned_tensors_are_measured_with_the_whole() -> None:
    model = Model({"attn_q": 1.0, "attn_k": 1.0, "ffn_down": 1.0})
    free = {n: d for n, d in damages().items() if "blk.0." not in n}
    pinned = {n: "q2_k" for n in damages() if "blk.0." in n}
    found = Search(free, N_LAYERS, pinned=pinned, measure=model).find(even("q4_k"))
    assert {**pinned, **found.types} in model.seen
    assert found.kld == pytest.approx(model.of({**pinned, **found.types}))
    assert set(found.types) == set(free)


def test_a_large_tensors_type_is_found_by_whole_choices() -> None:
    """Alone the embedding seems to hurt a hundred times as much as it does beside the others: by
    the sum of damages it would get most of the bytes."""
    big, times = "token_embd.weight", 24
    size = {t: times * ROWS * row_type(t).row_bytes(COLUMNS) for t in TYPES}
    both = damages() | {big: tuple(Damage(big, t, size[t], TYPES[t]) for t in TYPES)}
    seen: list[dict[str, str]] = []

    def loss(types: Mapping[str, str]) -> float:
        alone = 100.0 if len(types) == 1 else 1.0
        return sum(TYPES[t] * (alone if name == big else 1.0) for name, t in types.items())

    def whole(types: Mapping[str, str]) -> float:
        seen.append(dict(types))
        return loss(types)

    budget = even("q4_k") + size["q4_k"]
    plain = Search(both, N_LAYERS, measure=loss)
    plain._probe(budget)
    by_sum = plain.allocated(budget)
    found = Search(both, N_LAYERS, measure=loss, measure_whole=whole).find(budget)
    assert found.types[big] != by_sum[big]
    assert loss(found.types) < 0.6 * loss(by_sum)
    assert found.kld == pytest.approx(loss(found.types)) == min(map(loss, seen))
    assert found.size_bytes <= budget
    assert 3 <= len(seen) <= len(TYPES)  # whole choices: itself, and types beside it
    assert len({types[big] for types in seen}) == len(seen)


def test_where_time_ends_the_largest_groups_are_measured_and_the_rest_is_guessed() -> None:
    model = Model({"attn_q": 1.0, "attn_k": 1.0, "ffn_down": 1.0})
    search = Search(damages(), N_LAYERS, measure=model, until=time.monotonic() - 1)
    found = search.find(even("q4_k"))
    assert (found.runs, found.complete, found.kld) == (0, False, None)
    assert found.size_bytes <= even("q4_k")


def test_a_second_size_uses_what_the_first_one_learned() -> None:
    model = Model({"attn_q": 0.1, "attn_k": 1.0, "ffn_down": 10.0})
    search = Search(damages(), N_LAYERS, measure=model)
    first = search.find(even("q4_k"))
    again = search.find(even("q4_k"))
    assert again.types == first.types
    assert again.runs < first.runs


def test_a_tensor_whose_error_looks_small_counts_as_its_group_does() -> None:
    """One tensor's lost share of energy is a tenth of the others', and it hurts as they do."""
    odd = "blk.5.ffn_down.weight"
    seen = {
        name: tuple(
            Damage(name, d.type, d.size_bytes, d.error * (0.1 if name == odd else 1))
            for d in (*options, Damage(name, "q4_0", 10**5, 0.01))  # never worth its size
        )
        for name, options in damages().items()
    }

    def measure(types: Mapping[str, str]) -> float:
        return sum(TYPES[kind] for kind in types.values())

    found = Search(seen, N_LAYERS, measure=measure).find(even("q4_k"))
    assert found.types[odd] == "q4_k"


def test_every_group_is_explained() -> None:
    model = Model({"attn_q": 1.0, "attn_k": 1.0, "ffn_down": 2.0})
    found = Search(damages(), N_LAYERS, measure=model, parts=2).find(even("q4_k"))
    assert [g.group for g in found.groups] == [f"{k}/{i}" for k in KINDS for i in (1, 2)]
    assert sum(g.size_bytes for g in found.groups) == found.size_bytes
    for group in found.groups:
        assert sum(group.types.values()) == group.n_tensors == 3
        assert group.kld is not None
        chosen = [t for n, t in found.types.items() if group.group.split("/")[0] in n]
        assert set(group.types) <= set(chosen)


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(DoesNotFit):
        Search(damages(), N_LAYERS).find(even("q2_k") // 2)
