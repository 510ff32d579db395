"""How fast a placed model will generate: what each device reads for a token."""

from __future__ import annotations

from localllm.hardware import DecodeWork, Estimate, estimate_decode_tps
from localllm.placement.kv import Cache
from localllm.placement.options import PlanOptions
from localllm.placement.plan import DeviceNeed, HostNeed
from localllm.placement.sizes import ModelSizes
from localllm.placement.target import Target


def decode_speed(
    sizes: ModelSizes,
    target: Target,
    devices: tuple[DeviceNeed, ...],
    host: HostNeed,
    cache: Cache,
    options: PlanOptions,
) -> Estimate | None:
    """Tokens a second of one conversation with its context half full.

    None where a bandwidth that matters is not known. A mixture of experts reads the experts it
    uses; a recurrent state is read and written whole.
    """
    work = [
        DecodeWork(
            name=need.name,
            kind=gpu.kind,
            read_bytes=_weights_read(sizes, _layers(need), need.holds_output)
            + (0 if options.no_kv_offload else _cache_read(cache, _layers(need), options)),
            bandwidth_bytes_s=gpu.bandwidth_bytes_s or 0,
            n_layers=need.n_layers,
        )
        for need, gpu in zip(devices, target.gpus, strict=True)
    ]
    work.append(
        DecodeWork(
            name="CPU",
            kind="cpu",
            read_bytes=_weights_read(sizes, range(host.n_layers), host.holds_output)
            + sizes.on_gpu.moved_active_bytes
            + _cache_read(cache, _cached(cache, host, options), options),
            bandwidth_bytes_s=target.host_bandwidth_bytes_s or 0,
            n_layers=host.n_layers,
            threads=target.host_threads,
        )
    )
    return estimate_decode_tps(work)


def _layers(need: DeviceNeed) -> range:
    first = need.first_layer or 0
    return range(first, first + need.n_layers)


def _cached(cache: Cache, host: HostNeed, options: PlanOptions) -> range:
    """The layers whose cache is in main memory."""
    return range(len(cache.kv_bytes) if options.no_kv_offload else host.n_layers)


def _weights_read(sizes: ModelSizes, layers: range, output: bool) -> int:
    weights = sizes.on_gpu
    read = sum(weights.active_bytes[i] for i in layers)
    return read + (weights.output_read_bytes if output else 0)


def _cache_read(cache: Cache, layers: range, options: PlanOptions) -> int:
    kept = sum(cache.kv_bytes[i] // 2 + 2 * cache.state_bytes[i] for i in layers)
    return kept // options.n_parallel
