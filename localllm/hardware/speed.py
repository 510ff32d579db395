"""How fast a model will generate, from how many bytes a token reads: an estimate with its range.

Generating one token reads every weight in use and the cache once, and does little arithmetic
with each, so memory bandwidth bounds it. With layers split over devices the devices work one
after the other. A device's time for a token is

    bytes / (efficiency * bandwidth) + layers * overhead

where the overhead is the launch and synchronization of a layer's kernels. The figures below
are fitted to published llama-bench results (tests/hardware/test_speed.py lists them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

DecodeKind = Literal["cuda", "metal", "gpu", "cpu"]


@dataclass(frozen=True)
class DecodeWork:
    """What one device does for one token.

    `read_bytes`: weights in use (of a mixture of experts the active ones) and the cache as
    filled. `bandwidth_bytes_s`: the published peak of a GPU, the *measured* read bandwidth of
    a CPU. `n_layers` that run there. `threads` matters for "cpu" only: few cores cannot keep
    up with the memory. "gpu" is Vulkan, HIP and SYCL.
    """

    name: str
    kind: DecodeKind
    read_bytes: int
    bandwidth_bytes_s: int
    n_layers: int
    threads: int = 1


@dataclass(frozen=True)
class Estimate:
    """Tokens a second: pessimistic, likely, and what the memory bound allows at best."""

    low_tps: float
    mid_tps: float
    high_tps: float
    basis: str


@dataclass(frozen=True)
class _Model:
    """Pessimistic, likely, best: share of the bandwidth reached; seconds for each layer."""

    efficiency: tuple[float, float, float]
    layer_s: tuple[float, float, float]


MODELS: dict[DecodeKind, _Model] = {
    "cuda": _Model((0.65, 0.90, 1.00), (120e-6, 50e-6, 20e-6)),
    "metal": _Model((0.70, 0.90, 1.00), (200e-6, 140e-6, 40e-6)),
    "gpu": _Model((0.45, 0.75, 1.00), (250e-6, 100e-6, 30e-6)),
    "cpu": _Model((0.50, 0.80, 1.00), (200e-6, 60e-6, 10e-6)),
}
# What one CPU thread gets through in ggml's dot products. Measured on one Zen 4 core with 25 GB/s
# of memory to itself: Q4_0 17, Q8_0 19, F16 13 GB/s; K-quants and AVX2 without VNNI do less.
CPU_THREAD_BYTES_S = (3e9, 10e9, 25e9)


def estimate_decode_tps(work: Sequence[DecodeWork]) -> Estimate | None:
    """Tokens a second for one sequence; None when there is nothing to read or no bandwidth.

    The true value lies between `low_tps` and `high_tps` unless the device is busy, throttled
    or the prompt is still being processed; `mid_tps` is usually within 25 % on a GPU, within a
    factor of two on a CPU.
    """
    busy = [w for w in work if w.read_bytes > 0]
    if not busy or any(w.bandwidth_bytes_s <= 0 for w in busy):
        return None
    low, mid, high = (1 / sum(_seconds(w, case) for w in busy) for case in range(3))
    parts = "; ".join(
        f"{w.name}: {w.read_bytes / 1e9:.2f} GB at {w.bandwidth_bytes_s / 1e9:.0f} GB/s"
        for w in busy
    )
    return Estimate(low, mid, high, f"bytes read for a token over bandwidth ({parts})")


def _seconds(work: DecodeWork, case: int) -> float:
    model = MODELS[work.kind]
    rate = work.bandwidth_bytes_s * model.efficiency[case]
    if work.kind == "cpu":
        rate = min(rate, CPU_THREAD_BYTES_S[case] * max(1, work.threads))
    return work.read_bytes / rate + work.n_layers * model.layer_s[case]
