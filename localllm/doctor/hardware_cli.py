"""hardware: processor, memory, GPUs, and what llama.cpp can use of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from localllm import config
from localllm.doctor.machine import Machine, look
from localllm.hardware import Gpu
from localllm.ui import Bytes, Fields, Heading, Rate, Sink, Table, View
from localllm.ui.view import Note


def hardware_command(
    bandwidth: Annotated[
        bool,
        typer.Option("--bandwidth", help="Measure main memory's read bandwidth (half a second)."),
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Show processor, memory and GPUs, and what this llama.cpp can use."""
    sink.show(look(config.load(), bandwidth=bandwidth), _machine)


def _machine(m: Machine) -> View:
    cpu, memory = m.hardware.cpu, m.hardware.memory
    limited = memory.limit_bytes is not None
    cores = f"{cpu.physical_cores or '?'} physical, {cpu.logical_cores} logical"
    if (usable := cpu.usable_physical or cpu.usable_logical) != cpu.physical_cores:
        cores += f", {usable} usable here"
    if cpu.quota_cores is not None:
        cores += f", quota of {cpu.quota_cores:g} ({cpu.quota_source})"
    limit = f"{Bytes(memory.limit_bytes or 0)} ({memory.limit_source})" if limited else None
    measured = m.memory_bandwidth
    view: list[Any] = [
        Fields(
            [
                ("system", f"{m.hardware.os_name}, kernel {m.hardware.kernel}"),
                ("processor", f"{cpu.model} ({cpu.architecture})"),
                ("cores", cores),
                ("threads", f"{cpu.threads} for token generation"),
                ("SIMD", ", ".join(cpu.simd) or None),
                ("memory", Bytes(memory.total_bytes)),
                ("container limit", limit),
                ("available", Bytes(memory.available_bytes)),
                ("bandwidth", None if measured is None else _bandwidth(measured.read_bytes_s)),
                ("swap", Bytes(memory.swap_total_bytes) if memory.swap_total_bytes else None),
                *((f"disk {d.path}", f"{Bytes(d.free_bytes)} free") for d in m.hardware.disks),
            ]
        ),
        *_gpus(m),
        Heading("llama.cpp"),
        Fields(
            [
                ("build", f"{m.build.llama_version} ({m.build.commit[:9]}), llama-cpp-python "
                          f"{m.build.binding_version}"),
                ("backends", ", ".join(m.build.backends)),
                ("devices", ", ".join(d.name for d in m.build.devices)),
                ("processor code", ", ".join(m.build.cpu_features)),
            ]
        ),
    ]  # fmt: skip
    view += [Note(f"{f.subject}: {f.message}{_hint(f.hint)}", "warn") for f in m.findings]
    for unused in m.match.unused:
        view.append(Note(unused.message, "warn"))
        view += [Note(f"  {r.backend}: {r.command}  (needs {r.needs})") for r in unused.rebuilds]
    return view


def _bandwidth(bytes_s: float) -> str:
    return f"{Rate(bytes_s, 'B/s')} (measured, reading)"


def _hint(hint: str | None) -> str:
    return f"; {hint}" if hint else ""


def _gpus(m: Machine) -> list[Any]:
    gpus = [g for g in m.hardware.gpus if g.kind != "mig_parent"]
    known = [_row(g, m) for g in gpus]
    known += [
        (d.name, d.description, Bytes(d.total_bytes), Bytes(d.free_bytes), None, None, d.name)
        for d in m.match.others
    ]
    if not known:
        return [Heading("GPUs"), Fields([("none", m.hardware.nvml.message)])]
    columns = ("gpu", "name", "memory", "free", "bandwidth", "power limit", "llama.cpp device")
    facts = Fields(
        [
            ("NVIDIA driver", m.hardware.nvml.driver_version),
            ("CUDA", m.hardware.nvml.cuda_version),
        ]
    )
    return [Heading("GPUs"), Table(columns, known), facts]


def _row(gpu: Gpu, m: Machine) -> tuple[Any, ...]:
    devices = [d.name for u in m.match.usable if u.gpu == gpu for d in u.devices]
    used = ", ".join(devices) or (f"hidden by {gpu.hidden_by}" if gpu.hidden_by else "none")
    rate = gpu.bandwidth_bytes_s
    return (
        f"{gpu.source}:{gpu.index}" + (" (MIG)" if gpu.kind == "mig_instance" else ""),
        gpu.name,
        None if gpu.total_bytes is None else Bytes(gpu.total_bytes),
        None if gpu.free_bytes is None else Bytes(gpu.free_bytes),
        None if rate is None else Rate(rate, "B/s"),
        None if gpu.power_limit_w is None else f"{gpu.power_limit_w:.0f} W",
        used,
    )
