"""The speed estimate against published llama-bench results (tg128, one sequence)."""

from __future__ import annotations

import pytest

from localllm.hardware import DecodeWork, estimate_decode_tps, parse_gpu_spec
from localllm.hardware.speed import DecodeKind

F16, Q8_0, Q4_0 = 13.48e9, 7.16e9, 3.83e9  # Llama 2 7B, 32 layers: 12.55, 6.67, 3.56 GiB

PUBLISHED: list[tuple[str, DecodeKind, float, int, float]] = [
    # llama.cpp pull requests 4766 and 4812, continuum pull request 1627 (Qwen3 8B Q4_K_M)
    ("RTX 4090", "cuda", F16, 32, 61.0),
    ("RTX 4090", "cuda", Q8_0, 32, 98.1),
    ("RTX 3090 Ti", "cuda", Q4_0, 32, 127.4),
    ("P40", "cuda", Q4_0, 32, 56.8),
    ("RTX 5090", "cuda", 5.03e9, 36, 221.7),
    # llama.cpp discussion 4167, M-series
    ("M1 Max 64 GB", "metal", F16, 32, 23.0),
    ("M1 Max 64 GB", "metal", Q4_0, 32, 61.2),
    ("M2 24 GB", "metal", Q4_0, 32, 21.9),
    ("M2 Ultra 192 GB", "metal", F16, 32, 41.0),
    ("M2 Ultra 192 GB", "metal", Q4_0, 32, 94.3),
    ("M4 Max 128 GB", "metal", Q8_0, 32, 54.1),
]


@pytest.mark.parametrize(("gpu", "kind", "read_bytes", "layers", "measured"), PUBLISHED)
def test_the_range_holds_what_was_measured(
    gpu: str, kind: DecodeKind, read_bytes: float, layers: int, measured: float
) -> None:
    model, _ = parse_gpu_spec(gpu)
    work = DecodeWork(gpu, kind, int(read_bytes), model.bandwidth_bytes_s, layers)
    estimate = estimate_decode_tps([work])
    assert estimate is not None
    assert estimate.low_tps <= measured <= estimate.high_tps
    assert abs(estimate.mid_tps / measured - 1) < 0.40


def test_devices_work_one_after_the_other() -> None:
    half = DecodeWork("a", "cuda", 4_000_000_000, 1_000_000_000_000, 20)
    whole = DecodeWork("a", "cuda", 8_000_000_000, 1_000_000_000_000, 40)
    two, one = estimate_decode_tps([half, half]), estimate_decode_tps([whole])
    assert two is not None and one is not None
    assert two.mid_tps == pytest.approx(one.mid_tps)


def test_a_part_on_the_cpu_dominates() -> None:
    gpu = DecodeWork("gpu", "cuda", 4_000_000_000, 1_000_000_000_000, 30)
    cpu = DecodeWork("cpu", "cpu", 1_000_000_000, 50_000_000_000, 8, threads=8)
    both, alone = estimate_decode_tps([gpu, cpu]), estimate_decode_tps([gpu])
    assert both is not None and alone is not None
    assert both.mid_tps < alone.mid_tps / 3
    assert "cpu: 1.00 GB at 50 GB/s" in both.basis


def test_few_threads_cannot_keep_up_with_the_memory() -> None:
    work = [
        DecodeWork("cpu", "cpu", 4_000_000_000, 200_000_000_000, 32, threads=n) for n in (1, 32)
    ]
    one, many = (estimate_decode_tps([w]) for w in work)
    assert one is not None and many is not None
    assert one.mid_tps == pytest.approx(1 / (4e9 / 10e9 + 32 * 60e-6))
    assert many.mid_tps == pytest.approx(1 / (4e9 / 160e9 + 32 * 60e-6))


def test_nothing_to_go_by_is_no_estimate() -> None:
    assert estimate_decode_tps([]) is None
    assert estimate_decode_tps([DecodeWork("x", "gpu", 0, 1, 0)]) is None
    assert estimate_decode_tps([DecodeWork("x", "gpu", 5, 0, 0)]) is None


@pytest.mark.parametrize("kind", ["cuda", "metal", "gpu", "cpu"])
def test_low_mid_high_are_in_order_and_below_the_memory_bound(kind: DecodeKind) -> None:
    estimate = estimate_decode_tps([DecodeWork("x", kind, 10**9, 10**11, 10, threads=64)])
    assert estimate is not None
    assert 0 < estimate.low_tps < estimate.mid_tps < estimate.high_tps <= 100
