"""Bytes read for a token, counted from the tensors by gguf's own reader and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
from localllm.formats.gguf import read_model
from localllm.library.bench.case import BenchTest
from localllm.library.bench.conditions.bandwidth import (
    Bandwidth,
    Peak,
    bandwidth,
    mean_cells,
    measure_peaks,
    token_reads,
)
from localllm.placement import Opened, Placed, PlanOptions, Target, TargetGpu, plan_for
from tests.support.tiny_models import tiny_gemma3, tiny_llama, tiny_mamba, tiny_qwen3moe

GIB = 1 << 30


def gpu(name: str) -> TargetGpu:
    return TargetGpu(name, name, GIB, GIB, 0, None, "cuda", False, name)


def opened_on(path: Path, gpus: int = 0, **options: Any) -> Opened:
    """The model on the CPU, with the plan that a machine with so many GPUs would have."""
    target = Target(tuple(gpu(f"CUDA{i}") for i in range(gpus)), GIB, GIB, None, 2, here=False)
    plan = plan_for(read_model(path), target, PlanOptions(n_ctx=1024, **options))
    model = Model.load(path)
    context = Context(model, ContextOptions(n_ctx=256))
    return Opened(model, context, plan, Placed(0, 0, ()), ())


def tensors(path: Path) -> dict[str, int]:
    from gguf import GGUFReader

    return {t.name: int(t.n_bytes) for t in GGUFReader(path).tensors}


def row_of(path: Path) -> int:
    """One row of the embedding: 256 elements of two bytes."""
    return 256 * 2


def test_a_dense_model_reads_all_weights_but_the_embedding(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    sizes = tensors(path)
    weights = sum(size for name, size in sizes.items() if name != "token_embd.weight")
    with opened_on(path) as opened:
        # 2 layers, 2 heads of 64 for K and for V, two bytes each; positions 1 to 8.
        cache = 2 * (2 * 64 * 2) * 2 * 4.5
        assert token_reads(opened, BenchTest(0, 8)) == {"CPU": weights + row_of(path) + cache}
        deep = token_reads(opened, BenchTest(0, 8, 100))["CPU"]
        assert deep - weights - row_of(path) == 2 * (2 * 64 * 2) * 2 * 104.5


def test_a_quantized_cache_reads_less(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    test = BenchTest(0, 1, 99)  # 100 cells
    with opened_on(path) as plain, opened_on(path, type_k="q8_0", type_v="q4_0") as small:
        saved = token_reads(plain, test)["CPU"] - token_reads(small, test)["CPU"]
    # q8_0 takes 34 bytes for 32 elements, q4_0 18; 128 elements of each a cell and layer.
    assert saved == 2 * 100 * ((256 - 4 * 34) + (256 - 4 * 18))


def test_experts_count_as_far_as_they_are_used(tmp_path: Path) -> None:
    path = tiny_qwen3moe(tmp_path / "m.gguf", n_expert=8, n_expert_used=2)
    sizes = tensors(path)
    experts = sum(size for name, size in sizes.items() if "_exps." in name)
    rest = sum(sizes.values()) - experts - sizes["token_embd.weight"]
    with opened_on(path) as opened:
        cache = 2 * (2 * 64 * 2) * 2 * 1
        wanted = rest + experts / 4 + row_of(path) + cache
        assert token_reads(opened, BenchTest(0, 1)) == {"CPU": wanted}
    with opened_on(path, gpus=1, n_gpu_layers=-1, n_cpu_moe=1) as opened:
        reads = token_reads(opened, BenchTest(0, 1))
        assert reads["CPU"] == experts / 8 + row_of(path)  # those of one of two layers
        assert sum(reads.values()) == wanted


def test_a_tied_output_is_read_whole_and_windows_end_the_cache(tmp_path: Path) -> None:
    path = tiny_gemma3(tmp_path / "m.gguf")  # 7 layers, all but the sixth see 64 tokens
    weights = sum(tensors(path).values())
    a_cell = 2 * 64 * 2
    with opened_on(path) as opened:
        near = token_reads(opened, BenchTest(0, 1, 9))["CPU"]
        assert near == weights + row_of(path) + 7 * a_cell * 10
        far = token_reads(opened, BenchTest(0, 1, 499))["CPU"]
        assert far == weights + row_of(path) + a_cell * 500 + 6 * a_cell * 64


def test_a_recurrent_state_is_read_and_written(tmp_path: Path) -> None:
    path = tiny_mamba(tmp_path / "m.gguf")
    weights = sum(s for name, s in tensors(path).items() if name != "token_embd.weight")
    state = 2 * 4 * (3 * 512 + 16 * 512)  # layers, f32, convolution and state
    with opened_on(path) as opened:
        for depth in (0, 700):
            reads = token_reads(opened, BenchTest(0, 4, depth))
            assert reads == {"CPU": weights + row_of(path) + 2 * state}


def test_layers_read_where_they_are(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf", n_layer=4)
    sizes = tensors(path)
    layer = [sum(s for n, s in sizes.items() if n.startswith(f"blk.{i}.")) for i in range(4)]
    output = sizes["output.weight"] + sizes["output_norm.weight"]
    a_cell = 2 * 64 * 2 * 2
    with opened_on(path, gpus=2, n_gpu_layers=3, tensor_split=(1.0, 2.0)) as opened:
        assert [d.n_layers for d in opened.plan.devices] == [1, 1]
        assert token_reads(opened, BenchTest(0, 1)) == {
            "CUDA0": layer[2] + a_cell,
            "CUDA1": layer[3] + a_cell + output,
            "CPU": layer[0] + layer[1] + 2 * a_cell + row_of(path),
        }
    with opened_on(path, gpus=1, n_gpu_layers=-1, no_kv_offload=True) as opened:
        reads = token_reads(opened, BenchTest(0, 1))
        assert reads == {"CUDA0": sum(layer) + output, "CPU": 4 * a_cell + row_of(path)}


def test_the_peak_of_parts_read_one_after_the_other(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf", n_layer=4)
    test = BenchTest(0, 1)
    with opened_on(path, gpus=1, n_gpu_layers=3) as opened:
        reads = token_reads(opened, test)
        peaks = {"CUDA0": Peak(10**12, "driver"), "CPU": Peak(10**10, "measured")}
        found = bandwidth(opened, test, 100.0, peaks)
        total = sum(reads.values())
        seconds = reads["CUDA0"] / 1e12 + reads["CPU"] / 1e10
        assert found.bytes_per_token == total
        assert found.bandwidth_bytes_s == pytest.approx(100 * total)
        assert found.peak_bandwidth_bytes_s == pytest.approx(total / seconds)
        assert found.bandwidth_efficiency == pytest.approx(100 * seconds)  # of each second
        assert found.peak_basis == "driver+measured"
        without = bandwidth(opened, test, 100.0, {"CPU": Peak(10**10, "measured")})
        assert without.bandwidth_bytes_s == pytest.approx(100 * total)
        assert without.bandwidth_efficiency is None and without.peak_basis is None


def test_prompts_have_no_bandwidth(tmp_path: Path) -> None:
    with opened_on(tiny_llama(tmp_path / "m.gguf")) as opened:
        peaks = {"CPU": Peak(10**10, "measured")}
        for test in (BenchTest(8, 0), BenchTest(8, 8)):
            assert bandwidth(opened, test, 5.0, peaks) == Bandwidth()
        assert bandwidth(opened, BenchTest(0, 8), 0.0, peaks) == Bandwidth()


@pytest.mark.parametrize(
    ("depth", "n_gen", "window"),
    [(0, 1, 0), (0, 128, 0), (500, 7, 0), (0, 128, 64), (60, 10, 64), (100, 9, 64), (63, 1, 64)],
)
def test_mean_cells_is_the_mean_over_the_tokens(depth: int, n_gen: int, window: int) -> None:
    seen = [depth + i for i in range(1, n_gen + 1)]
    cells = [min(s, window) if window else s for s in seen]
    assert mean_cells(depth, n_gen, window) == pytest.approx(sum(cells) / n_gen)


def test_this_machines_memory_is_measured() -> None:
    peaks = measure_peaks(1)
    assert peaks["CPU"].basis == "measured"
    assert 10**8 < peaks["CPU"].bytes_s < 10**13
