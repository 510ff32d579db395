"""Predicted and measured memory of an open model, device by device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from localllm.library.bench.record import DeviceMemory

if TYPE_CHECKING:
    from localllm.engine.memory import BufferUse
    from localllm.placement import Opened
    from localllm.placement.sizes import ModelSizes

HOST = "CPU"
_MAPPED = "CPU_Mapped"


def device_memory(opened: Opened) -> tuple[DeviceMemory, ...]:
    """What the plan said of each device in use and of main memory (last), and what llama.cpp
    then took.

    Measured are llama.cpp's own buffers. Of weights in a mapped file main memory counts what
    is used from there: llama.cpp's figure spans from the first tensor to the last, with the
    ones between that lie on a GPU or were copied for the CPU (these pages may be resident for
    a while; the system takes them back when it needs them).
    """
    buffers = (*opened.model.buffers, *opened.context.buffers)
    used = [d for d in opened.plan.devices if d.n_layers or d.holds_output]
    names = _gpu_names()
    processes = _gpu_process_bytes()
    rows = [
        _row(name, [d.total_bytes for d in used if d.name == name], found, 0, processes.get(name))
        for name, found in _by_device(buffers, names)
    ]
    host = [b for b in buffers if _device_of(b.name, names) is None]
    rows.append(
        _row(HOST, [opened.plan.host.total_bytes], host, _holes(opened, names), _resident())
    )
    return tuple(rows)


def _row(
    name: str, predicted: list[int], buffers: list[BufferUse], holes: int, process: int | None
) -> DeviceMemory:
    weights = sum(b.weights_bytes for b in buffers) - holes
    context = sum(b.context_bytes for b in buffers)
    compute = sum(b.compute_bytes + b.output_bytes for b in buffers)
    return DeviceMemory(
        device=name,
        predicted_bytes=sum(predicted),
        measured_bytes=weights + context + compute,
        weights_bytes=weights,
        context_bytes=context,
        compute_bytes=compute,
        process_bytes=process,
    )


def _by_device(
    buffers: Iterable[BufferUse], names: tuple[str, ...]
) -> list[tuple[str, list[BufferUse]]]:
    found: dict[str, list[BufferUse]] = {}
    for buffer in buffers:
        device = _device_of(buffer.name, names)
        if device is not None:
            found.setdefault(device, []).append(buffer)
    return sorted(found.items(), key=lambda item: names.index(item[0]))


def _device_of(buffer: str, names: tuple[str, ...]) -> str | None:
    """The GPU whose memory a buffer type is, None for main memory ("CUDA_Host", "CPU")."""
    # Metal maps the file ("MTL0_Mapped"), remote devices add their address ("RPC0[host:port]").
    for name in names:
        if buffer == name or buffer.startswith((f"{name}_", f"{name}[")):
            return name
    return None


def _holes(opened: Opened, names: tuple[str, ...]) -> int:
    """Bytes within the mapped range of main memory that are used from elsewhere.

    The file's tensors are all somewhere, so what main memory uses of the map is all of them,
    and a tied embedding once more where it has a copy, less what other buffers hold.
    """
    from localllm.formats.gguf import read_model
    from localllm.placement.sizes import model_sizes

    buffers = opened.model.buffers
    mapped = sum(b.weights_bytes for b in buffers if b.name == _MAPPED)
    others = [b for b in buffers if b.name != _MAPPED]
    if not mapped or not others or any(b.name.endswith("_Mapped") for b in others):
        return 0
    sizes = model_sizes(read_model(opened.model.path), opened.plan.load.n_cpu_moe)
    weights = sizes.on_host
    file_bytes = weights.input_bytes + weights.all_layers_bytes
    file_bytes += weights.output_bytes + weights.shared_bytes
    elsewhere = sum(b.weights_bytes for b in others)
    twice = weights.tied_bytes if _copied(opened, sizes, names) else 0
    return max(0, mapped - (file_bytes + twice - elsewhere))


def _copied(opened: Opened, sizes: ModelSizes, names: tuple[str, ...]) -> bool:
    """Whether an embedding that is the output matrix too was stored a second time: on the GPU
    of the output layer (whose buffer is then larger than its layers), or in the CPU's layout."""
    from localllm.engine.repack import repacks

    tied = sizes.on_host.tied_bytes
    if not tied:
        return False
    on_gpus = [d for d in opened.plan.devices if d.holds_output]
    for device in on_gpus:
        held = [b.weights_bytes for b in opened.model.buffers if b.name == device.name]
        if sum(held) > device.weights_bytes - tied // 2:
            return True
    others = [b for b in opened.model.buffers if b.name not in (_MAPPED, HOST)]
    copies = sum(b.weights_bytes for b in others if _device_of(b.name, names) is None)
    return copies >= tied and sizes.repacked_bytes(repacks)[1] > 0


def _gpu_names() -> tuple[str, ...]:
    from localllm.engine import build

    return tuple(device.name for device in build.devices() if device.offloads)


def _gpu_process_bytes() -> dict[str, int]:
    from localllm.hardware import gpu_process_bytes
    from localllm.library.bench.measuring.devices import gpus_by_name

    known = gpus_by_name()
    if not any(gpu.source == "nvml" for gpu in known.values()):
        return {}
    booked = gpu_process_bytes()
    return {name: booked[gpu.uuid] for name, gpu in known.items() if gpu.uuid in booked}


def _resident() -> int | None:
    from localllm.hardware import resident_bytes

    return resident_bytes()
