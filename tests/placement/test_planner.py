"""What goes where: verdicts, the user's own choices, and the order of asking llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.engine.options import ContextOptions, LoadOptions
from localllm.engine.repack import repacks
from localllm.engine.reserve import BufferReservation, Reservation
from localllm.errors import UsageProblem
from localllm.formats.gguf import GGUFHeader, read_header, read_model
from localllm.hardware import GpuModel, detect
from localllm.placement import (
    Machine,
    PlanOptions,
    Target,
    machine_for,
    plan_for,
    target_on_paper,
    this_machine,
)
from tests.placement.conftest import GIB, Written, cpu_only, this_llama
from tests.support.tiny_models import llama_model


def cards(*sizes_gib: float, host_gib: float = 64) -> Target:
    """Cards of so much free memory, headroom aside."""
    target = target_on_paper(detect(), vram_bytes=[int(size * GIB) for size in sizes_gib])
    gpus = tuple(
        replace(gpu, free_bytes=int(size * GIB), headroom_bytes=0, bandwidth_bytes_s=500 * 10**9)
        for gpu, size in zip(target.gpus, sizes_gib, strict=True)
    )
    return replace(target, gpus=gpus, host_available_bytes=int(host_gib * GIB))


@pytest.fixture
def llama8b(written: Written) -> GGUFHeader:
    return read_header(written("llama3.1-8b"))  # 4.6 GiB of weights in 33 layers


def test_verdicts(llama8b: GGUFHeader):
    for target, verdict, runs in (
        (cards(8), "all", True),
        (cards(4), "partial", True),
        (cards(1.5), "none", True),  # a few layers: the CPU does most of the work
        (cards(0.1), "none", True),
        (cards(), "cpu", True),
        (cards(host_gib=4), "none", False),
        (cards(1.5, host_gib=2), "none", False),
        (cards(2, 2, 2, 2), "all", True),
    ):
        plan = plan_for(llama8b, target)
        assert (plan.verdict, plan.runs) == (verdict, runs), target.gpus
        assert (plan.missing_bytes == 0) == runs
        assert (plan.n_offloaded == plan.n_layers) == (verdict == "all")


def test_what_is_missing_is_what_would_help(llama8b: GGUFHeader):
    plan = plan_for(llama8b, cards(host_gib=4))
    enough = 4 + plan.missing_bytes / GIB
    assert plan_for(llama8b, cards(host_gib=enough + 1e-6)).runs
    assert not plan_for(llama8b, cards(host_gib=enough - 1e-6)).runs


def test_a_file_larger_than_memory_does_not_fit_though_it_can_be_mapped(llama8b: GGUFHeader):
    plan = plan_for(llama8b, cards(host_gib=4))  # 4.6 GiB of weights, 1 of cache
    assert (plan.verdict, plan.runs) == ("none", False)
    assert plan.paged_bytes == plan.missing_bytes > 1 << 30  # from the disk, for every token
    assert plan_for(llama8b, cards(host_gib=0.5)).paged_bytes == 0  # not even the cache fits
    assert plan_for(llama8b, cards(host_gib=8)).paged_bytes == 0


def test_the_largest_context_fits_and_the_next_does_not(llama8b: GGUFHeader):
    target = cards(8)
    plan = plan_for(llama8b, target)
    largest = plan.largest_n_ctx_gpu
    assert 8192 < largest < 131072
    assert largest % 256 == 0
    assert plan_for(llama8b, target, PlanOptions(n_ctx=largest)).verdict == "all"
    assert plan_for(llama8b, target, PlanOptions(n_ctx=largest + 256)).verdict != "all"
    assert plan.largest_n_ctx == 131072  # with main memory's help, and never more than trained


def test_more_conversations_take_their_own_context(llama8b: GGUFHeader):
    one = plan_for(llama8b, cpu_only(), PlanOptions(n_ctx=4096))
    four = plan_for(llama8b, cpu_only(), PlanOptions(n_ctx=4096, n_parallel=4))
    assert four.kv_bytes == 4 * one.kv_bytes
    assert (four.context.n_ctx, four.context.n_seq_max) == (16384, 4)
    assert four.n_ctx == 4096


def test_a_number_of_layers_is_the_users_choice(llama8b: GGUFHeader):
    for wanted, offloaded in ((0, 0), (7, 7), (33, 33), (99, 33), (-1, 33)):
        plan = plan_for(llama8b, cards(8), PlanOptions(n_gpu_layers=wanted))
        assert plan.n_offloaded == offloaded == plan.load.n_gpu_layers
    forced = plan_for(llama8b, cards(2), PlanOptions(n_gpu_layers=33))
    assert (forced.verdict, forced.runs) == ("none", False)


def test_shared_memory_counts_once_for_both(llama8b: GGUFHeader):
    target = cards(8, host_gib=8)
    shared = replace(target, gpus=(replace(target.gpus[0], shares_host_memory=True),))
    assert plan_for(llama8b, shared).verdict == "all"
    small = replace(shared, host_available_bytes=5 * GIB)
    assert not plan_for(llama8b, small).runs  # 4.6 of weights, 1 of cache, buffers


def test_experts_that_are_not_used_cost_memory_and_no_time(written: Written):
    dense = plan_for(read_header(written("qwen3-8b")), cpu_only())
    sparse = plan_for(read_header(written("qwen3moe-30b")), cpu_only())
    assert sparse.weights_bytes > 3.5 * dense.weights_bytes  # 30 B against 8 B
    assert dense.speed is not None
    assert sparse.speed is not None
    assert sparse.speed.mid_tps > 1.5 * dense.speed.mid_tps  # 3 B active against 8 B


def test_speed_is_unknown_where_a_bandwidth_is(llama8b: GGUFHeader):
    target = replace(cpu_only(), host_bandwidth_bytes_s=None)
    assert plan_for(llama8b, target).speed is None


def test_cache_types_that_a_model_cannot_have(written: Written, llama8b: GGUFHeader):
    mamba = read_header(written("mamba-2.8b"))
    assert plan_for(mamba, cpu_only(), PlanOptions(type_k="q4_0", type_v="q4_0")).kv_bytes == 0
    deepseek = read_header(written("deepseek2-lite"))
    for header, options in (
        (llama8b, PlanOptions(type_k="q3_k")),
        (llama8b, PlanOptions(type_v="q8_0", flash_attn="off")),
        (deepseek, PlanOptions(type_k="q8_0")),  # K and V are one cache there
    ):
        with pytest.raises(UsageProblem):
            plan_for(header, cpu_only(), options)
    for bad in ({"n_parallel": 0}, {"n_ctx": 0}, {"n_ubatch": -1}):
        with pytest.raises(UsageProblem):
            PlanOptions(**bad)


def test_heads_that_blocks_do_not_divide(tmp_path: Path):
    """Heads of 80 numbers and blocks of 32: llama.cpp refuses such a cache, so does the plan."""
    from localllm.engine.reserve import reserve_here
    from localllm.errors import EngineError

    path = llama_model(n_embd=320, n_head=4, n_layer=1).write(tmp_path / "odd.gguf")
    with pytest.raises(UsageProblem, match="80"):
        plan_for(read_header(path), cpu_only(), PlanOptions(type_k="q8_0"))
    with pytest.raises(EngineError):
        reserve_here(path, LoadOptions(devices=()), ContextOptions(type_k="q8_0"))


# --- asking llama.cpp ---------------------------------------------------------------------


def answering(header: GGUFHeader, compute_bytes: int, asked: list[int]) -> Machine:
    """A llama.cpp whose GPU buffer is of this size; notes how many layers it was asked for."""

    def measure(load: LoadOptions, context: ContextOptions) -> Reservation:
        asked.append(load.n_gpu_layers)
        names = load.devices or ()
        buffers = tuple(BufferReservation(name, compute_bytes, 0, 0) for name in names)
        return Reservation(buffers, 0, (), context.n_ctx, context.n_ctx, True, False)

    return Machine(measure, repacks)


def on_this_machine(target: Target) -> Target:
    gpus = tuple(replace(gpu, ggml_name=f"GPU{i}") for i, gpu in enumerate(target.gpus))
    return replace(target, gpus=gpus, here=True)


@pytest.mark.parametrize("compute_gib", [0.05, 0.6, 1.5, 3.0])
def test_a_layout_is_decided_again_by_what_llama_cpp_answers(
    compute_gib: float, llama8b: GGUFHeader
):
    target, asked = on_this_machine(cards(5)), list[int]()
    machine = answering(llama8b, int(compute_gib * GIB), asked)
    plan = plan_for(llama8b, target, PlanOptions(), machine)
    assert plan.runs
    assert plan.devices[0].compute_bytes == int(compute_gib * GIB)
    assert plan.devices[0].total_bytes <= 5 * GIB
    assert len(asked) <= 4
    assert plan.n_offloaded in asked  # what is returned was measured, not guessed
    layer = plan.devices[0].weights_bytes / plan.devices[0].n_layers
    assert plan.devices[0].total_bytes + 2 * layer > 5 * GIB  # and hardly one more would fit


def test_split_models_are_measured_by_stand_ins_of_their_shards(tmp_path: Path):
    """Headers only, as after a range request: the shards' weights are holes."""
    shards = llama_model(n_layer=4).write_split(tmp_path, "big", 3)
    model = read_model(shards[0])
    with machine_for(model) as machine:
        split = plan_for(model, cpu_only(), PlanOptions(n_ctx=512), machine)
    whole = llama_model(n_layer=4).write(tmp_path / "whole.gguf")
    with machine_for(read_model(whole), whole) as machine:
        one = plan_for(read_model(whole), cpu_only(), PlanOptions(n_ctx=512), machine)
    assert (split.basis, split.total_bytes) == ("llama.cpp", one.total_bytes)


def test_this_machine_is_what_llama_cpp_offers():
    target = this_machine(bandwidth=True)
    assert target.here
    assert 0 < target.host_available_bytes <= target.host_total_bytes
    assert target.host_bandwidth_bytes_s is None or target.host_bandwidth_bytes_s > 10**9
    assert all(gpu.ggml_name == gpu.name for gpu in target.gpus)


def test_bare_memory_is_a_card_of_that_size():
    card = GpuModel("x", "other", 24 * GIB, 0, unified=False, ecc=False)
    gpu = target_on_paper(detect(), vram_bytes=[24 * GIB]).gpus[0]
    assert (gpu.total_bytes, gpu.free_bytes) == (24 * GIB, card.usable_bytes)
    assert 0 < gpu.free_bytes - gpu.headroom_bytes < 24 * GIB


def test_arithmetic_alone_is_close(written: Written):
    """The stated error of what is not asked; benchmarks/fit_error.py measures it widely."""
    from localllm.placement.plan import COMPUTE_ERROR, TOTAL_ERROR

    for name in ("llama3.1-8b", "gemma2-9b", "qwen3moe-30b", "gpt-oss-20b", "mamba-2.8b"):
        path = written(name)
        header = read_header(path)
        guess = plan_for(header, cpu_only())
        real = plan_for(header, cpu_only(), PlanOptions(), this_llama(path))
        assert guess.compute_bytes == pytest.approx(real.compute_bytes, rel=COMPUTE_ERROR)
        assert guess.total_bytes == pytest.approx(real.total_bytes, rel=TOTAL_ERROR)
        assert (guess.compute_error, real.compute_error) == (COMPUTE_ERROR, 0.0)
