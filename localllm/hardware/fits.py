"""Pure arithmetic on what fits: which layers go on which device, and how much.

Nothing here knows a file format or a driver: sizes go in as numbers, a plan comes out. The
slots that are placed are the repeating layers and, last, the output layer; the input embedding
stays with the host (llama.cpp never offloads it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from localllm.hardware.dealing import deal, first_fit
from localllm.hardware.layout import Device, Need, Plan, Verdict, judged, lay_out, missing_bytes
from localllm.hardware.split_rule import assign

RANK: dict[Verdict, int] = {"none": 0, "cpu": 1, "partial": 2, "all": 3}


def best_plan(need: Need, devices: Sequence[Device], host_available_bytes: int) -> Plan:
    """The plan that offloads the most slots; among those, the fastest.

    With room to choose, slots go to the devices of the highest bandwidth, on as few devices as
    will do (each costs a compute buffer and a hop), evenly filled. When nothing can be
    offloaded the host alone is judged; when that does not fit either, the verdict is "none"
    and the plan shown is the one that lacks least.
    Devices must either all share the host's memory or none: of a mixture the split found is
    safe, but another might offload more.
    """
    for n_gpu_layers in range(need.n_slots, 0, -1):
        counts = _offload(need, devices, host_available_bytes, n_gpu_layers)
        if counts is None:
            continue
        dealt = _deal(need, devices, n_gpu_layers)
        for better in (dealt, counts):
            plan = judged(lay_out(need, devices, better), devices, host_available_bytes)
            if plan.fits:
                return plan
    return _without_offload(need, devices, host_available_bytes)


def planned(
    need: Need,
    devices: Sequence[Device],
    host_available_bytes: int,
    n_gpu_layers: int,
    tensor_split: Sequence[float] | None = None,
) -> Plan:
    """The plan of a choice already made (`-ngl`, `-ts`), judged: "none" when it does not fit.

    `tensor_split` None or all zero is llama.cpp's default, by free memory.
    """
    where = assign(need.n_slots - 1, n_gpu_layers, tensor_split, [d.free_bytes for d in devices])
    counts = [where.count(d) for d in range(len(devices))]
    return judged(lay_out(need, devices, counts), devices, host_available_bytes)


def largest_n_ctx(
    need_at: Callable[[int], Need],
    devices: Sequence[Device],
    host_available_bytes: int,
    *,
    limit: int,
    verdict: Verdict = "all",
    step: int = 256,
) -> int:
    """The largest context (a multiple of `step`, at most `limit`) still planned as `verdict` or
    better; 0 when not even `step` is. A `limit` that is no multiple is tried itself first.

    `need_at(n_ctx)` must not shrink as n_ctx grows: the search halves.
    """
    if limit % step and _reaches(need_at(limit), devices, host_available_bytes, verdict):
        return limit
    return step * _largest(
        lambda n: _reaches(need_at(n * step), devices, host_available_bytes, verdict), limit // step
    )


def largest_parallel(
    need_at: Callable[[int], Need],
    devices: Sequence[Device],
    host_available_bytes: int,
    *,
    limit: int = 256,
    verdict: Verdict = "all",
) -> int:
    """The most sequences (at most `limit`) still planned as `verdict` or better; 0 if not one.

    `need_at(n_parallel)` must not shrink as n_parallel grows.
    """
    return _largest(lambda n: _reaches(need_at(n), devices, host_available_bytes, verdict), limit)


# --- inside ------------------------------------------------------------------------------


def _largest(holds: Callable[[int], bool], limit: int) -> int:
    """The largest n in 1..limit for which `holds`, by bisection; 0 without one."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _reaches(need: Need, devices: Sequence[Device], available: int, wanted: Verdict) -> bool:
    """Whether the best verdict is at least `wanted`, without dealing out the best split."""
    if RANK[wanted] <= RANK["cpu"] and not missing_bytes(
        lay_out(need, devices, []), devices, available
    ):
        return True
    fewest = need.n_slots if wanted == "all" else 1
    if any(
        _offload(need, devices, available, n) is not None
        for n in range(need.n_slots, fewest - 1, -1)
    ):
        return True
    return wanted == "none"


def _offload(
    need: Need, devices: Sequence[Device], available: int, n_gpu_layers: int
) -> list[int] | None:
    """A way to offload just so many slots within every device and the host; None without one."""
    counts = _first_fit(need, devices, n_gpu_layers)
    if counts is None or missing_bytes(lay_out(need, devices, counts), devices, available):
        return None
    return counts


def _first_fit(need: Need, devices: Sequence[Device], n_gpu_layers: int) -> list[int] | None:
    return first_fit(
        need.slot_bytes[need.n_slots - n_gpu_layers :],
        _rooms(need, devices, n_gpu_layers),
        need.compute_bytes,
        need.output_compute_bytes,
    )


def _deal(need: Need, devices: Sequence[Device], n_gpu_layers: int) -> list[int]:
    speeds = [d.bandwidth_bytes_s for d in devices]
    known = [s for s in speeds if s]
    return deal(
        need.slot_bytes[need.n_slots - n_gpu_layers :],
        _rooms(need, devices, n_gpu_layers),
        need.compute_bytes,
        need.output_compute_bytes,
        known if len(known) == len(speeds) else None,
    )


def _rooms(need: Need, devices: Sequence[Device], n_gpu_layers: int) -> list[int]:
    """Each device's room for slots and their compute buffers; below 0 where not even the copies
    of host weights fit on the first."""
    extra = need.partial_compute_bytes if n_gpu_layers < need.n_slots else 0
    return [d.room_bytes - (extra if i == 0 else 0) for i, d in enumerate(devices)]


def _without_offload(need: Need, devices: Sequence[Device], available: int) -> Plan:
    """Host only where that fits; else of all plans that fit their devices the least lacking."""
    plans = [judged(lay_out(need, devices, []), devices, available)]
    if not plans[0].fits:
        fitting = (_first_fit(need, devices, n) for n in range(need.n_slots, 0, -1))
        counts = next((c for c in fitting if c is not None), None)
        if counts:
            plans.append(judged(lay_out(need, devices, counts), devices, available))
    return min(plans, key=lambda p: p.missing_bytes)
