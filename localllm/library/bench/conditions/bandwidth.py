"""How much of the memory's speed token generation reaches.

Generating a token reads every weight it uses once, and the cache up to its position, so bytes
read for a token times tokens a second is the rate at which memory was read. With layers split
over devices these work one after the other: the peak is then the rate of reading each part at
its own device's peak (as in hardware/speed.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.library.bench.case import BenchTest
from localllm.library.bench.measuring.devices import gpus_by_name
from localllm.placement import archs
from localllm.placement.kv import CELL_PADDING, CacheOptions, model_cache

if TYPE_CHECKING:
    from localllm.engine.options import ContextOptions
    from localllm.formats.gguf import GGUFView
    from localllm.placement import ModelShape, Opened, Plan

HOST = "CPU"
_CELLS = CELL_PADDING  # a cache of so many cells has them in every layer, windowed or not
_TOGETHER = ("row", "tensor")  # ways to split each layer over all GPUs
_LAYER = re.compile(r"blk\.(\d+)\.")
_LOOKED_UP = ("token_embd", "per_layer_token_embd", "position_embd")


@dataclass(frozen=True)
class Peak:
    """Bytes a second that a device can read, and who says so: "driver", "catalogue" (published
    figures) or "measured"."""

    bytes_s: int
    basis: str


@dataclass(frozen=True)
class Bandwidth:
    """The fields of a BenchRow, by their names. All None for tests that process prompts; the
    last three where a peak is not known."""

    bytes_per_token: float | None = None
    bandwidth_bytes_s: float | None = None
    peak_bandwidth_bytes_s: float | None = None
    peak_basis: str | None = None
    bandwidth_efficiency: float | None = None


def measure_peaks(n_threads: int) -> dict[str, Peak]:
    """The peak of each device by ggml's name, "CPU" measured with `n_threads` (0.6 s; 0 takes
    as many as the engine would). Once a run, on a quiet machine; the result is plain data."""
    from localllm.engine.threads import default_threads
    from localllm.hardware import measure_memory_bandwidth
    from localllm.placement.here import look

    peaks = {
        name: Peak(gpu.bandwidth_bytes_s, gpu.bandwidth_basis)
        for name, gpu in gpus_by_name().items()
        if gpu.bandwidth_bytes_s and gpu.bandwidth_basis
    }
    measured = measure_memory_bandwidth(
        threads=n_threads or default_threads(), available_bytes=look().memory.available_bytes
    )
    if measured is not None:
        peaks[HOST] = Peak(measured.read_bytes_s, "measured")
    return peaks


def bandwidth(
    opened: Opened, test: BenchTest, avg_ts: float, peaks: Mapping[str, Peak]
) -> Bandwidth:
    """What `test` read of memory at `avg_ts` tokens a second, and the share of the peak."""
    if test.n_prompt or not avg_ts:
        return Bandwidth()
    reads = token_reads(opened, test)
    total = sum(reads.values())
    used = [name for name, size in reads.items() if size]
    known = Bandwidth(bytes_per_token=total, bandwidth_bytes_s=total * avg_ts)
    if not used or any(name not in peaks for name in used):
        return known
    peak = total / _seconds(reads, peaks, together=opened.plan.load.split_mode in _TOGETHER)
    return Bandwidth(
        bytes_per_token=total,
        bandwidth_bytes_s=total * avg_ts,
        peak_bandwidth_bytes_s=peak,
        peak_basis="+".join(dict.fromkeys(peaks[name].basis for name in used)),
        bandwidth_efficiency=total * avg_ts / peak,
    )


def _seconds(reads: Mapping[str, float], peaks: Mapping[str, Peak], *, together: bool) -> float:
    """How long reading takes at the peaks: device after device, or all GPUs `together`."""
    if not together:
        return sum(size / peaks[name].bytes_s for name, size in reads.items())
    gpus = [name for name in reads if name != HOST]
    on_gpus = sum(reads[name] for name in gpus) / max(1, sum(peaks[n].bytes_s for n in gpus))
    return on_gpus + (reads[HOST] / peaks[HOST].bytes_s if HOST in reads else 0.0)


def token_reads(opened: Opened, test: BenchTest) -> dict[str, float]:
    """Bytes that generating one token of `test` reads on each device, on average over the test.

    Weights in use (of experts those that are chosen, of the input embedding one row, of the
    output matrix all) and the adapters that are attached, the cache up to the token (no more than
    the window in layers that have one), recurrent states twice, for they are written too. Cells
    that llama.cpp looks at only to find them masked do not count.
    """
    from localllm.engine.adapter import attached
    from localllm.formats.gguf import read_model
    from localllm.placement.sizes import model_sizes

    plan = opened.plan
    sizes = model_sizes(read_model(opened.model.path), plan.load.n_cpu_moe)
    weights, caches = sizes.on_host, _cache_reads(sizes.shape, plan.context, test)
    where, output = _places(plan, len(weights.active_bytes))
    on_gpu = plan.context.offload_kqv
    reads = {device.name: 0.0 for device in plan.devices} | {HOST: 0.0}
    for layer, device in enumerate(where):
        reads[device] += weights.active_bytes[layer]
        reads[device if on_gpu else HOST] += caches[layer]
    reads[output] += weights.output_read_bytes
    reads[HOST] += weights.moved_active_bytes + _row_bytes(sizes.header)
    for adapter in attached(opened.context):
        for name, tensor in read_model(adapter.adapter.path).tensors.items():
            number = _LAYER.match(name)
            reads[where[int(number[1])] if number else output] += tensor.size_bytes
    return {name: size for name, size in reads.items() if size}


def _places(plan: Plan, n_layers: int) -> tuple[list[str], str]:
    """The device of each layer, and of the output."""
    where, output = [HOST] * n_layers, HOST
    for device in plan.devices:
        first = device.first_layer or 0
        where[first : first + device.n_layers] = [device.name] * device.n_layers
        output = device.name if device.holds_output else output
    return where, output


def _cache_reads(shape: ModelShape, options: ContextOptions, test: BenchTest) -> list[float]:
    """Bytes of cache and state that a token reads in each layer, its state's writing included."""
    cells = CacheOptions(
        n_ctx=_CELLS, n_batch=_CELLS, n_ubatch=_CELLS, type_k=options.type_k,
        type_v=options.type_v, flash_attn=options.flash_attn != "off",
    )  # fmt: skip
    cache = model_cache(shape, cells)
    full = mean_cells(test.n_depth, test.n_gen)
    windowed = mean_cells(test.n_depth, test.n_gen, shape.n_window)
    reads = []
    for i, layer in enumerate(shape.layers):
        source = _source(shape, i)
        a_cell = cache.kv_bytes[source] / _CELLS
        reads.append(a_cell * (windowed if layer.window else full) + 2 * cache.state_bytes[i])
    return reads


def mean_cells(n_depth: int, n_gen: int, n_window: int = 0) -> float:
    """How many cells a generated token attends to, itself included: the mean over `n_gen`
    tokens after `n_depth` others. `n_window` 0 is no window."""
    last = n_depth + n_gen
    growing = last if not n_window else max(n_depth, min(last, n_window))
    whole = (n_depth + 1 + growing) * (growing - n_depth) / 2  # n_depth + 1 .. growing
    return (whole + (last - growing) * n_window) / n_gen


def _source(shape: ModelShape, layer: int) -> int:
    """The layer whose cache a layer reads: another's, of its own kind, where the last layers
    share it (gemma3n, gemma4)."""
    shares = shape.architecture in archs.SHARED_CACHE or shape.architecture in archs.CACHED_LAYERS
    if shape.layers[layer].caches or not shares:
        return layer
    like = shape.layers[layer].window
    owners = [i for i, one in enumerate(shape.layers[:layer]) if one.caches and one.window == like]
    return owners[-1] if owners else layer


def _row_bytes(header: GGUFView) -> float:
    """One row of each embedding that tokens are looked up in."""
    tables = (header.tensors.get(f"{name}.weight") for name in _LOOKED_UP)
    return sum(t.size_bytes / t.shape[1] for t in tables if t and len(t.shape) == 2)
