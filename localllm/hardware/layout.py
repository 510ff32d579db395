"""What a model needs, what devices have, and what each holds once its slots are dealt out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Verdict = Literal["all", "partial", "cpu", "none"]


@dataclass(frozen=True)
class Device:
    """A device layers may go to, in llama.cpp's order. `free_bytes` is free now.

    `reserve_bytes` are left alone (a display, fragmentation). `bandwidth_bytes_s` decides which
    device is filled first when there is a choice. A device that `shares_host_memory` takes its
    bytes from the host's: Apple silicon, integrated GPUs.
    """

    name: str
    free_bytes: int
    reserve_bytes: int = 0
    bandwidth_bytes_s: int | None = None
    shares_host_memory: bool = False

    @property
    def room_bytes(self) -> int:
        return max(0, self.free_bytes - self.reserve_bytes)


@dataclass(frozen=True)
class Need:
    """What a model takes at one context length and number of sequences, in bytes.

    `layer_bytes` and `kv_bytes`: weights and cache (or recurrent state) of each repeating
    layer. `output_bytes`: the output layer, a copy of the embedding where the two are tied.
    `compute_bytes`: the compute buffer of a device that holds any slot; `output_compute_bytes`
    what the device with the output layer needs on top; `partial_compute_bytes` what the first
    device needs on top, with or without slots, when layers stay on the host (llama.cpp copies
    their weights there for prompt processing). `host_compute_bytes` is always the host's.
    """

    layer_bytes: tuple[int, ...]
    kv_bytes: tuple[int, ...]
    output_bytes: int
    input_bytes: int
    compute_bytes: int = 0
    output_compute_bytes: int = 0
    partial_compute_bytes: int = 0
    host_compute_bytes: int = 0

    def __post_init__(self) -> None:
        if len(self.layer_bytes) != len(self.kv_bytes):
            raise ValueError("layer_bytes and kv_bytes are of one length, an entry a layer")

    @property
    def n_slots(self) -> int:
        """What n_gpu_layers must be to offload everything: the layers and the output layer."""
        return len(self.layer_bytes) + 1

    @property
    def slot_bytes(self) -> tuple[int, ...]:
        layers = (w + kv for w, kv in zip(self.layer_bytes, self.kv_bytes, strict=True))
        return (*layers, self.output_bytes)


@dataclass(frozen=True)
class Share:
    """What one device (or the host) holds. `first_slot` is None where it holds no slot.

    The host's `weights_bytes` include the input embedding.
    """

    name: str
    first_slot: int | None
    n_slots: int
    holds_output: bool
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    room_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


@dataclass(frozen=True)
class Plan:
    """Where everything goes, and whether it fits.

    `verdict`: "all" slots on devices, "partial", "cpu" (host only: give llama.cpp no devices),
    "none". `n_gpu_layers` and `tensor_split` are what llama.cpp is to be given; `tensor_split`
    is in slots. `missing_bytes` is 0 when it fits, else how much memory the nearest plan lacks.
    """

    verdict: Verdict
    n_slots: int
    n_gpu_layers: int
    tensor_split: tuple[float, ...]
    devices: tuple[Share, ...]
    host: Share
    missing_bytes: int

    @property
    def fits(self) -> bool:
        return self.verdict != "none"

    @property
    def total_bytes(self) -> int:
        return self.host.total_bytes + sum(d.total_bytes for d in self.devices)


def lay_out(need: Need, devices: Sequence[Device], counts: Sequence[int]) -> Plan:
    """The shares when device d takes `counts[d]` slots, in order, of the last sum(counts)."""
    offloaded = sum(counts)
    start = need.n_slots - offloaded
    partial = 0 < offloaded < need.n_slots
    shares = []
    for number, device in enumerate(devices):
        count = counts[number] if number < len(counts) else 0
        share = _share(need, device, start, count)
        if partial and number == 0:
            extra = need.partial_compute_bytes
            share = replace(share, compute_bytes=share.compute_bytes + extra)
        shares.append(share)
        start += count
    first = need.n_slots - offloaded
    on_host = min(first, len(need.layer_bytes))
    host = Share(
        name="host",
        first_slot=0 if first else None,
        n_slots=first,
        holds_output=offloaded == 0,
        weights_bytes=need.input_bytes
        + sum(need.layer_bytes[:on_host])
        + (0 if offloaded else need.output_bytes),
        kv_bytes=sum(need.kv_bytes[:on_host]),
        compute_bytes=need.host_compute_bytes,
        room_bytes=0,
    )
    verdict: Verdict = "all" if first == 0 else ("partial" if offloaded else "cpu")
    split = tuple(float(c) for c in counts) if offloaded else ()
    return Plan(verdict, need.n_slots, offloaded, split, tuple(shares), host, 0)


def _share(need: Need, device: Device, start: int, count: int) -> Share:
    end = start + count
    holds_output = count > 0 and end == need.n_slots
    compute = need.compute_bytes + (need.output_compute_bytes if holds_output else 0)
    return Share(
        name=device.name,
        first_slot=start if count else None,
        n_slots=count,
        holds_output=holds_output,
        weights_bytes=sum(need.layer_bytes[start:end]) + (need.output_bytes if holds_output else 0),
        kv_bytes=sum(need.kv_bytes[start:end]),
        compute_bytes=compute if count else 0,
        room_bytes=device.room_bytes,
    )


def missing_bytes(plan: Plan, devices: Sequence[Device], available: int) -> int:
    """How many bytes the plan lacks, on its worst device or the host."""
    shared = sum(
        share.total_bytes
        for share, device in zip(plan.devices, devices, strict=True)
        if device.shares_host_memory
    )
    over = [share.total_bytes - share.room_bytes for share in plan.devices if share.total_bytes]
    return max(0, plan.host.total_bytes + shared - available, *over)


def judged(plan: Plan, devices: Sequence[Device], available: int) -> Plan:
    missing = missing_bytes(plan, devices, available)
    host = replace(plan.host, room_bytes=available)
    return replace(
        plan, host=host, missing_bytes=missing, verdict="none" if missing else plan.verdict
    )
