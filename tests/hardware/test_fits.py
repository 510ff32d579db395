"""Where layers go: against brute force on small cases, and by properties on large ones."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.hardware import (
    Device,
    Need,
    Plan,
    assign,
    best_plan,
    largest_n_ctx,
    largest_parallel,
    planned,
)

GIB = 1 << 30
PLENTY = 1 << 50


@st.composite
def needs(draw: st.DrawFn, max_layers: int = 5) -> Need:
    n = draw(st.integers(1, max_layers))
    small = st.integers(0, 12)
    return Need(
        layer_bytes=tuple(draw(st.lists(st.integers(1, 20), min_size=n, max_size=n))),
        kv_bytes=tuple(draw(st.lists(small, min_size=n, max_size=n))),
        output_bytes=draw(st.integers(0, 25)),
        input_bytes=draw(small),
        compute_bytes=draw(small),
        output_compute_bytes=draw(small),
        partial_compute_bytes=draw(small),
        host_compute_bytes=draw(small),
    )


devices_of_a_kind = st.lists(
    st.builds(
        Device,
        name=st.just("gpu"),
        free_bytes=st.integers(0, 90),
        reserve_bytes=st.integers(0, 10),
        bandwidth_bytes_s=st.sampled_from([None, 100, 300, 1000]),
    ),
    max_size=3,
)


def offload_is_possible(
    need: Need, counts: tuple[int, ...], devices: list[Device], host: int
) -> bool:
    """Straight from the words: add up what each device and the host would hold."""
    n_layers, offloaded = len(need.layer_bytes), sum(counts)
    slot = n_layers + 1 - offloaded
    on_host = need.input_bytes + need.host_compute_bytes
    for i in range(min(slot, n_layers)):
        on_host += need.layer_bytes[i] + need.kv_bytes[i]
    if offloaded == 0:
        on_host += need.output_bytes
    if on_host > host:
        return False
    for number, (count, device) in enumerate(zip(counts, devices, strict=True)):
        held = need.compute_bytes if count else 0
        if number == 0 and 0 < offloaded < n_layers + 1:
            held += need.partial_compute_bytes
        for _ in range(count):
            if slot == n_layers:
                held += need.output_bytes + need.output_compute_bytes
            else:
                held += need.layer_bytes[slot] + need.kv_bytes[slot]
            slot += 1
        if held > max(0, device.free_bytes - device.reserve_bytes):
            return False
    return True


def most_offloaded(need: Need, devices: list[Device], host: int) -> int | None:
    """The most slots any split can offload, by trying all; None when nothing fits at all."""
    best = None
    for counts in product(range(len(need.layer_bytes) + 2), repeat=len(devices)):
        if sum(counts) <= len(need.layer_bytes) + 1 and offload_is_possible(
            need, counts, devices, host
        ):
            best = max(sum(counts), best or 0)
    return best


@settings(max_examples=400, deadline=None)
@given(need=needs(), devices=devices_of_a_kind, host=st.integers(0, 150))
def test_equals_brute_force(need: Need, devices: list[Device], host: int) -> None:
    plan = best_plan(need, devices, host)
    best = most_offloaded(need, devices, host)
    if best is None:
        assert plan.verdict == "none" and plan.missing_bytes > 0
        return
    assert plan.missing_bytes == 0
    assert plan.n_gpu_layers == best
    slots = len(need.layer_bytes) + 1
    assert plan.verdict == ("all" if best == slots else "partial" if best else "cpu")


@settings(max_examples=300, deadline=None)
@given(need=needs(40), devices=devices_of_a_kind, host=st.integers(0, 1500))
def test_never_over_capacity_and_nothing_lost(need: Need, devices: list[Device], host: int) -> None:
    plan = best_plan(need, devices, host)
    weights = sum(need.layer_bytes) + need.output_bytes + need.input_bytes
    holders = (plan.host, *plan.devices)
    assert sum(h.weights_bytes for h in holders) == weights
    assert sum(h.kv_bytes for h in holders) == sum(need.kv_bytes)
    assert sum(h.n_slots for h in holders) == plan.n_slots
    assert sum(h.holds_output for h in holders) == 1
    if plan.fits:
        assert plan.host.total_bytes <= host
        for share, device in zip(plan.devices, devices, strict=True):
            assert share.total_bytes <= device.room_bytes or share.total_bytes == 0


@settings(max_examples=300, deadline=None)
@given(need=needs(40), devices=devices_of_a_kind, host=st.integers(0, 1500))
def test_llama_cpp_would_place_the_layers_just_so(
    need: Need, devices: list[Device], host: int
) -> None:
    plan = best_plan(need, devices, host)
    free = [d.free_bytes for d in devices]
    placed = assign(plan.n_slots - 1, plan.n_gpu_layers, plan.tensor_split, free)
    if plan.n_gpu_layers:
        assert [placed.count(d) for d in range(len(devices))] == [s.n_slots for s in plan.devices]
        for number, share in enumerate(plan.devices):
            assert share.first_slot == (placed.index(number) if share.n_slots else None)
        again = planned(need, devices, host, plan.n_gpu_layers, plan.tensor_split)
        assert again == plan


RANK = {"none": 0, "cpu": 1, "partial": 2, "all": 3}


@settings(max_examples=300, deadline=None)
@given(
    need=needs(20),
    devices=devices_of_a_kind.filter(bool),
    host=st.integers(0, 600),
    more=st.integers(0, 60),
    which=st.integers(0, 2),
)
def test_more_memory_never_fits_less(
    need: Need, devices: list[Device], host: int, more: int, which: int
) -> None:
    before = best_plan(need, devices, host)
    grown = list(devices)
    at = which % len(devices)
    grown[at] = Device(
        "gpu",
        devices[at].free_bytes + more,
        devices[at].reserve_bytes,
        devices[at].bandwidth_bytes_s,
    )
    for after in (
        best_plan(need, grown, host),
        best_plan(need, devices, host + more),
        best_plan(need, [*devices, Device("gpu", more)], host),
    ):
        assert RANK[after.verdict] >= RANK[before.verdict]
        if before.fits:
            assert after.n_gpu_layers >= before.n_gpu_layers


@settings(max_examples=200, deadline=None)
@given(need=needs(6), devices=devices_of_a_kind.filter(bool))
def test_of_all_full_offloads_the_one_that_reads_fastest(need: Need, devices: list[Device]) -> None:
    plan = best_plan(need, devices, PLENTY)
    if plan.verdict != "all":
        return
    speeds = [d.bandwidth_bytes_s or 0 for d in devices]
    if not all(speeds):
        speeds = [1] * len(devices)

    def cost(counts: tuple[int, ...]) -> tuple[float, int]:
        seconds, slot = 0.0, 0
        for count, speed in zip(counts, speeds, strict=True):
            seconds += sum(need.slot_bytes[slot : slot + count]) / speed
            slot += count
        return (round(seconds, 6), sum(1 for c in counts if c))

    every = [
        counts
        for counts in product(range(need.n_slots + 1), repeat=len(devices))
        if sum(counts) == need.n_slots and offload_is_possible(need, counts, devices, PLENTY)
    ]
    chosen = tuple(s.n_slots for s in plan.devices)
    assert cost(chosen)[0] <= min(cost(c)[0] for c in every) + 1e-5
    if len({*speeds}) == 1:
        assert cost(chosen)[1] == min(cost(c)[1] for c in every)


def llama_70b(n_ctx: int) -> Need:
    """Llama 3.1 70B Q4_K_M by its published shape: 80 layers, 8 KV heads of 128, f16 cache."""
    return Need(
        layer_bytes=(511_000_000,) * 80,
        kv_bytes=(2 * 8 * 128 * 2 * n_ctx,) * 80,
        output_bytes=862_000_000,
        input_bytes=591_000_000,
        compute_bytes=300_000_000,
        output_compute_bytes=200_000_000,
        partial_compute_bytes=400_000_000,
        host_compute_bytes=30_000_000,
    )


def gpus(*gib: float, bandwidth: int | None = None) -> list[Device]:
    return [
        Device(f"CUDA{i}", int(g * GIB), bandwidth_bytes_s=bandwidth) for i, g in enumerate(gib)
    ]


def test_70b_on_three_16_gib_cards_and_on_two_of_11() -> None:
    three = best_plan(llama_70b(8192), gpus(15.5, 15.5, 15.5), 32 * GIB)
    assert three.verdict == "all"
    assert three.n_gpu_layers == 81
    filled = [d.total_bytes / d.room_bytes for d in three.devices]
    assert max(filled) - min(filled) < 0.06  # like cards are evenly filled
    two = best_plan(llama_70b(8192), gpus(10.6, 10.6), 16 * GIB)
    assert two.verdict == "none" and two.missing_bytes > 0
    with_more_ram = best_plan(llama_70b(8192), gpus(10.6, 10.6), 32 * GIB)
    assert with_more_ram.verdict == "partial"


def test_unequal_cards_24_and_8() -> None:
    need = Need((700 << 20,) * 40, (0,) * 40, 500 << 20, 0, 300 << 20)
    plan = best_plan(need, gpus(24, 8), 64 * GIB)
    assert plan.verdict == "all"
    assert plan.devices[0].n_slots > 3 * plan.devices[1].n_slots - 3
    default = planned(need, gpus(24, 8), 64 * GIB, 41)
    assert default.fits  # by free memory: 31 and 10


def test_the_default_split_by_free_memory_can_fail_where_a_plan_exists() -> None:
    """A large output layer goes to the last device, which the default does not know."""
    need = Need((GIB,) * 20, (0,) * 20, 4 * GIB, 0)
    devices = gpus(20, 5)
    assert not planned(need, devices, PLENTY, 21).fits
    plan = best_plan(need, devices, PLENTY)
    assert plan.verdict == "all"
    assert plan.tensor_split == (19.0, 2.0) or plan.tensor_split == (20.0, 1.0)


def test_a_model_that_fits_one_card_stays_on_the_fastest() -> None:
    need = Need((100,) * 10, (0,) * 10, 100, 0)
    devices = [Device("slow", 5000, 0, 300), Device("fast", 5000, 0, 1000)]
    assert [d.n_slots for d in best_plan(need, devices, PLENTY).devices] == [0, 11]
    like = [Device("a", 5000), Device("b", 5000)]
    assert sorted(d.n_slots for d in best_plan(need, like, PLENTY).devices) == [0, 11]


def test_the_reserve_is_left_alone() -> None:
    need = Need((100,) * 10, (0,) * 10, 100, 0)
    assert best_plan(need, [Device("a", 1100)], PLENTY).verdict == "all"
    tight = best_plan(need, [Device("a", 1100, reserve_bytes=1)], PLENTY)
    assert (tight.verdict, tight.n_gpu_layers) == ("partial", 10)


def test_a_unified_device_and_the_host_share_one_memory() -> None:
    need = Need((100,) * 10, (10,) * 10, 100, 50, compute_bytes=20)
    total = 1000 + 100 + 100 + 50 + 20
    shared = [Device("Metal", 2000, shares_host_memory=True)]
    assert best_plan(need, shared, total).verdict == "all"
    assert best_plan(need, shared, total - 1).verdict == "cpu"  # without the device's buffer
    assert best_plan(need, shared, total - 21).verdict == "none"


def test_host_only() -> None:
    need = Need((100,) * 4, (10,) * 4, 50, 25, 999, 999, 999, 5)
    plan = best_plan(need, [], 520)
    assert (plan.verdict, plan.n_gpu_layers, plan.tensor_split) == ("cpu", 0, ())
    assert plan.host.total_bytes == plan.total_bytes == 400 + 40 + 50 + 25 + 5
    assert plan.host.holds_output
    short = best_plan(need, [], 500)
    assert (short.verdict, short.missing_bytes) == ("none", 20)


def test_a_choice_already_made_is_judged() -> None:
    need = Need((100,) * 4, (0,) * 4, 100, 0)
    over = planned(need, [Device("a", 250)], PLENTY, 3)
    assert (over.verdict, over.missing_bytes) == ("none", 50)
    fine = planned(need, [Device("a", 250)], PLENTY, 2)
    assert (fine.verdict, fine.n_gpu_layers, fine.devices[0].first_slot) == ("partial", 2, 3)


@settings(deadline=None)
@given(
    per_token=st.integers(1, 50),
    base=st.integers(0, 4000),
    room=st.integers(0, 60_000),
    limit=st.integers(1, 5000),
)
def test_the_largest_context_is_the_largest(
    per_token: int, base: int, room: int, limit: int
) -> None:
    def need_at(n_ctx: int) -> Need:
        return Need((base,), (per_token * n_ctx,), 1, 0)

    found = largest_n_ctx(need_at, [Device("a", room)], 0, limit=limit, step=64)

    def fits(n_ctx: int) -> bool:
        return base + per_token * n_ctx + 1 <= room

    candidates = [n for n in (*range(64, limit + 1, 64), limit) if fits(n)]
    assert found == max(candidates, default=0)


def test_contexts_by_verdict() -> None:
    def need_at(n_ctx: int) -> Need:
        return Need((1000,) * 4, (n_ctx,) * 4, 1000, 0)

    devices, host = [Device("a", 9000)], 100_000
    everything = largest_n_ctx(need_at, devices, host, limit=131072, verdict="all", step=1)
    partly = largest_n_ctx(need_at, devices, host, limit=131072, verdict="partial", step=1)
    somehow = largest_n_ctx(need_at, devices, host, limit=131072, verdict="cpu", step=1)
    assert everything == 1000  # 5 x 1000 + 4 x 1000
    assert partly == 24_000  # only the output layer offloaded: 4 x (1000 + n) on the host
    assert somehow == 24_000


def test_the_most_parallel_sequences() -> None:
    def need_at(n_parallel: int) -> Need:
        return Need((1000,) * 4, (10 * n_parallel,) * 4, 1000, 0)

    assert largest_parallel(need_at, [Device("a", 5400)], 0) == 10
    assert largest_parallel(need_at, [Device("a", 5039)], 0) == 0
    assert largest_parallel(need_at, [Device("a", PLENTY)], 0, limit=64) == 64


def test_a_large_model_on_many_devices_is_planned_at_once() -> None:
    need = Need((300 << 20,) * 126, (16 << 20,) * 126, GIB, GIB, 200 << 20)
    plan = best_plan(need, gpus(*[3.0] * 16), 64 * GIB)
    assert plan.verdict == "all"


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one length"):
        Need((1, 2), (1,), 0, 0)


def test_plans_are_values() -> None:
    plan = best_plan(Need((1,), (1,), 1, 1), [Device("a", 10)], 10)
    assert isinstance(plan, Plan)
    assert hash(plan) == hash(best_plan(Need((1,), (1,), 1, 1), [Device("a", 10)], 10))
