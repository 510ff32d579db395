"""CUDA_VISIBLE_DEVICES: which of the driver's GPUs this process may use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from localllm.hardware.machine import Finding, Gpu

VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Visible:
    gpus: tuple[Gpu, ...]
    findings: tuple[Finding, ...]


def apply_visible_devices(gpus: Sequence[Gpu], value: str | None, order: str | None) -> Visible:
    """`gpus` with `hidden_by` set where CUDA will not see them.

    `value` and `order` are CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER, None when unset. The
    list holds indices or UUIDs (a unique beginning is enough); CUDA stops reading at the first
    entry that names nothing, so the empty string and "-1" hide everything. Only NVML's GPUs
    are touched: other backends have variables of their own.
    """
    if value is None:
        return Visible(tuple(gpus), ())
    nvidia = [g for g in gpus if g.source == "nvml"]
    chosen: set[tuple[int | None, int]] = set()
    findings: list[Finding] = []
    for entry in (e.strip() for e in value.split(",")):
        gpu = _named(nvidia, entry)
        if gpu is None:
            if entry not in ("", "-1", "NoDevFiles"):
                message = f"{VARIABLE} names no GPU with {entry!r}; CUDA ignores it and the rest"
                findings.append(
                    Finding("visible_devices_invalid", VARIABLE, message, "nvidia-smi -L")
                )
            break
        chosen.add(_key(gpu))
    findings += _order_finding(nvidia, value, order)
    marked = tuple(
        g if g.source != "nvml" or _shown(g, chosen) else replace(g, hidden_by=VARIABLE)
        for g in gpus
    )
    return Visible(marked, tuple(findings))


def _named(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    if re.fullmatch(r"[0-9]{1,6}", entry):
        return next((g for g in gpus if g.parent_index is None and g.index == int(entry)), None)
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    matching = [g for g in gpus if g.uuid and g.uuid.startswith(entry)]
    return matching[0] if len(matching) == 1 else None


def _key(gpu: Gpu) -> tuple[int | None, int]:
    return (gpu.parent_index, gpu.index)


def _shown(gpu: Gpu, chosen: set[tuple[int | None, int]]) -> bool:
    """A MIG instance is seen when it or its whole parent is named."""
    return _key(gpu) in chosen or (
        gpu.parent_index is not None and (None, gpu.parent_index) in chosen
    )


def _order_finding(gpus: Sequence[Gpu], value: str, order: str | None) -> list[Finding]:
    """Indices mean NVML's order only under PCI_BUS_ID; CUDA's own puts the fastest first."""
    by_index = any(entry.strip().isdecimal() for entry in value.split(","))
    kinds = {g.name for g in gpus if g.parent_index is None}
    if not by_index or len(kinds) < 2 or order == "PCI_BUS_ID":
        return []
    message = f"{VARIABLE}={value} counts GPUs fastest first, nvidia-smi by bus: they may differ"
    return [
        Finding("visible_devices_order", VARIABLE, message, "export CUDA_DEVICE_ORDER=PCI_BUS_ID")
    ]
