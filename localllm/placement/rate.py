"""How fast a placed model will generate: what each device reads for a token."""

from __future__ import annotations

from localllm.hardware import DecodeWork, Estimate, estimate_decode_tps
from localllm.placement.kv import Cache
from localllm.placement.plan import DeviceNeed, HostNeed
from localllm.placement.sizes import ModelSizes
from localllm.placement.target import Target


def decode_speed(
    sizes: ModelSizes,
    target: Target,
    devices: tuple[DeviceNeed, ...],
    host: HostNeed,
    cache: Cache,
    n_parallel: int,
) -> Estimate | None:
    """Tokens a second of one conversation with its context half full.

    None where a bandwidth that matters is not known. A mixture of experts reads the experts it
    uses; a recurrent state is read and written whole.
    """
    work = [
        DecodeWork(
            name=need.name,
            kind=gpu.kind,
            read_bytes=_read_bytes(sizes, cache, n_parallel, _layers(need), need.holds_output),
            bandwidth_bytes_s=gpu.bandwidth_bytes_s or 0,
            n_layers=need.n_layers,
        )
        for need, gpu in zip(devices, target.gpus, strict=True)
    ]
    work.append(
        DecodeWork(
            name="CPU",
            kind="cpu",
            read_bytes=_read_bytes(
                sizes, cache, n_parallel, range(host.n_layers), host.holds_output
            ),
            bandwidth_bytes_s=target.host_bandwidth_bytes_s or 0,
            n_layers=host.n_layers,
            threads=target.host_threads,
        )
    )
    return estimate_decode_tps(work)


def _layers(need: DeviceNeed) -> range:
    first = need.first_layer or 0
    return range(first, first + need.n_layers)


def _read_bytes(
    sizes: ModelSizes, cache: Cache, n_parallel: int, layers: range, output: bool
) -> int:
    weights = sizes.on_gpu
    read = sum(weights.active_bytes[i] for i in layers)
    read += weights.output_read_bytes if output else 0
    kept = sum(cache.kv_bytes[i] // 2 + 2 * cache.state_bytes[i] for i in layers)
    return read + kept // n_parallel
