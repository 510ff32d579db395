"""Evidence on a real language model."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.library.bench.case import BenchTest
from localllm.library.bench.conditions.bandwidth import bandwidth, measure_peaks, token_reads
from localllm.library.bench.conditions.memory import device_memory
from localllm.library.bench.measuring.batched import batched
from localllm.library.bench.measuring.latency import latency
from localllm.library.bench.measuring.loading import load_times
from localllm.placement import PlanOptions, open_model

pytestmark = pytest.mark.model


def test_memory_is_what_was_planned(real_gguf: Path) -> None:
    with open_model(real_gguf, PlanOptions(n_ctx=2048, n_gpu_layers=0)) as opened:
        (cpu,) = device_memory(opened)
        info = opened.model.info
    assert cpu.device == "CPU"
    assert cpu.error is not None and abs(cpu.error) < 0.01
    # A tied embedding: on some processors a second copy of it is made.
    assert info.size_bytes <= cpu.weights_bytes < 2 * info.size_bytes
    # 3 of 18 layers see all 2,048 tokens, the others 512 + a micro-batch of 512; one head of
    # 256 for keys and one for values, of two bytes each.
    assert cpu.context_bytes == (3 * 2048 + 15 * 1024) * 2 * 256 * 2


def test_bytes_for_a_token_are_the_weights(real_gguf: Path) -> None:
    with open_model(real_gguf, PlanOptions(n_ctx=512, n_gpu_layers=0)) as opened:
        size = opened.model.info.size_bytes
        cache = 18 * 2 * 256 * 2 * 64.5  # of 128 tokens
        reads = token_reads(opened, BenchTest(0, 128))["CPU"]
        assert reads == pytest.approx(size + cache, rel=1e-3)
        found = bandwidth(opened, BenchTest(0, 128), 30.0, measure_peaks(0))
        assert found.peak_basis == "measured"
        assert found.bandwidth_bytes_s == pytest.approx(30 * reads)


def test_answers_and_levels(real_gguf: Path) -> None:
    with open_model(real_gguf, PlanOptions(n_ctx=256)) as opened:
        row = latency(opened, 32, 8, 2)
    assert row.first_token.n == 2
    assert row.first_token.p50_s > row.inter_token.p50_s > 0
    rows = batched(real_gguf, (1, 2), 16, 4)
    assert [r.failure for r in rows] == [None, None]


def test_loading(real_gguf: Path) -> None:
    found = load_times(real_gguf, PlanOptions(n_ctx=256), repetitions=1)
    assert len(found.warm_s) == 1
    assert (len(found.cold_s) == 1) == (found.cold_refused is None)
