"""From a layout to the bytes that each device and the host hold."""

from __future__ import annotations

from dataclasses import dataclass

from localllm.engine.reserve import Reservation
from localllm.hardware import Plan as Layout
from localllm.hardware import Share
from localllm.placement.compute import ComputeNeed
from localllm.placement.kv import Cache
from localllm.placement.options import PlanOptions
from localllm.placement.plan import DeviceNeed, HostNeed
from localllm.placement.sizes import ModelSizes, pipelines
from localllm.placement.target import Target, TargetGpu


@dataclass(frozen=True)
class Buffers:
    """Compute buffers of each GPU of the target, of the host, and the logits."""

    devices: tuple[int, ...]
    host: int
    logits: int


def estimated(
    sizes: ModelSizes, compute: ComputeNeed, layout: Layout, options: PlanOptions
) -> Buffers:
    """Buffers by arithmetic. The largest weight that stays on the host counts for the GPUs
    that prompt processing copies it to: the first, or with experts on the host each."""
    largest, experts = sizes.on_gpu.largest_layer_tensor_bytes, sizes.on_gpu.moved_active_bytes
    used = [i for i, share in enumerate(layout.devices) if share.n_slots]
    whole = layout.host.n_slots == 0
    pipelined = whole and len(used) > 1 and pipelines(options)

    def on(i: int, share: Share) -> int:
        if not share.n_slots:
            return 0
        size = compute.device_bytes + (compute.output_extra_bytes if share.holds_output else 0)
        if pipelined:
            size += compute.pipeline_extra_bytes
        return size + (largest if experts or (not whole and i == used[0]) else 0)

    host = compute.host_bytes if used else compute.cpu_bytes
    return Buffers(
        devices=tuple(on(i, share) for i, share in enumerate(layout.devices)),
        host=host + (compute.host_pipeline_extra_bytes if pipelined else 0),
        logits=sizes.logits_bytes(options.n_parallel),
    )


def reserved(reservation: Reservation, target: Target) -> Buffers:
    """Buffers as llama.cpp reserved them; host memory is every buffer that is no GPU's."""
    names = [gpu.ggml_name or "" for gpu in target.gpus]
    on_host = [b for b in reservation.buffers if b.name not in names]
    return Buffers(
        devices=tuple(reservation.on(name).compute_bytes for name in names),
        host=sum(b.compute_bytes for b in on_host),
        logits=sum(b.output_bytes for b in reservation.buffers),
    )


def device_needs(
    sizes: ModelSizes,
    target: Target,
    layout: Layout,
    cache: Cache,
    buffers: Buffers,
    options: PlanOptions,
) -> tuple[DeviceNeed, ...]:
    """One entry for each GPU of the target, those without a layer too."""
    kept = None if options.no_kv_offload else cache
    return tuple(
        _device_need(sizes, gpu, share, kept, compute)
        for gpu, share, compute in zip(target.gpus, layout.devices, buffers.devices, strict=True)
    )


def _device_need(
    sizes: ModelSizes, gpu: TargetGpu, share: Share, cache: Cache | None, compute_bytes: int
) -> DeviceNeed:
    """`cache` None: it is kept on the host."""
    first = share.first_slot or 0
    layers = range(first, first + share.n_slots - share.holds_output)
    weights = sizes.on_gpu
    held = sum(weights.layer_bytes[i] for i in layers) + (weights.shared_bytes if layers else 0)
    if share.holds_output:
        held += weights.output_bytes + weights.tied_bytes
    return DeviceNeed(
        name=gpu.name,
        description=gpu.description,
        first_layer=first if layers else None,
        n_layers=len(layers),
        holds_output=share.holds_output,
        weights_bytes=held,
        kv_bytes=sum(cache.kv_bytes[i] for i in layers) if cache else 0,
        state_bytes=sum(cache.state_bytes[i] for i in layers) if cache else 0,
        compute_bytes=compute_bytes,
        total_memory_bytes=gpu.total_bytes,
        free_bytes=gpu.free_bytes,
        headroom_bytes=gpu.headroom_bytes,
    )


def host_need(
    sizes: ModelSizes,
    target: Target,
    layout: Layout,
    cache: Cache,
    buffers: Buffers,
    repacked: tuple[int, int],
    options: PlanOptions,
) -> HostNeed:
    """`repacked`: what the CPU keeps in its own layout, and what of it comes twice."""
    holds_output = layout.host.n_slots == layout.n_slots
    layers = range(layout.host.n_slots - holds_output)
    weights = sizes.on_host
    held = weights.input_bytes + sum(weights.layer_bytes[i] for i in layers)
    held += weights.shared_bytes if layers else 0
    held += weights.output_bytes if holds_output else 0
    copied, twice = repacked
    kept = range(len(cache.kv_bytes)) if options.no_kv_offload else layers
    return HostNeed(
        n_layers=len(layers),
        holds_output=holds_output,
        weights_bytes=held + twice,
        mapped_bytes=held + twice - copied if options.mmap else 0,
        repacked_bytes=copied,
        kv_bytes=sum(cache.kv_bytes[i] for i in kept),
        state_bytes=sum(cache.state_bytes[i] for i in kept),
        compute_bytes=buffers.host,
        logits_bytes=buffers.logits,
        available_bytes=target.host_available_bytes,
        total_memory_bytes=target.host_total_bytes,
    )


def missing_bytes(devices: tuple[DeviceNeed, ...], host: HostNeed, target: Target) -> int:
    """What the fullest device or the host lacks; a GPU without a layer lacks nothing."""
    shared = sum(
        need.total_bytes
        for need, gpu in zip(devices, target.gpus, strict=True)
        if gpu.shares_host_memory
    )
    on_host = host.total_bytes + shared - host.available_bytes
    lacking = [d.missing_bytes for d in devices if d.n_layers or d.holds_output]
    return max(0, on_host, *lacking)
