"""How large a model this machine holds, by the plan that would load it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from localllm.errors import DoesNotFit
from localllm.formats.gguf import GGML_TYPES, GGUFView
from localllm.formats.gguf.index import TensorInfo
from localllm.placement import Plan, PlanOptions, Target, model_shape, plan_for, this_machine
from localllm.placement.sizes import model_sizes
from localllm.ui import Bytes

_ROUNDS = 14  # of halving: to a sixteen-thousandth of the range

Choose = Callable[[int], Mapping[str, str]]  # bytes for the free tensors -> their types


@dataclass(frozen=True)
class FitAssumed:
    """What `--fit` took as given, in bytes. `where` is "GPU" (every layer there) or "memory".
    `available_bytes` is what was free, `weights_bytes` to `compute_bytes` what the model needs of
    it at `n_ctx` tokens; `margin_bytes` is kept because compute buffers are estimated, and for
    what the CPU copies into a layout of its own."""

    where: Literal["GPU", "memory"]
    available_bytes: int
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    margin_bytes: int
    n_ctx: int
    cache_type: str


def bytes_that_fit(
    header: GGUFView,
    choose: Choose,
    least_bytes: int,
    most_bytes: int,
    n_ctx: int | None,
    target: Target | None = None,
) -> tuple[int, FitAssumed]:
    """The most bytes for the free tensors, of `least_bytes` to `most_bytes`, with which the model
    fits: every layer on GPUs where that is possible at all, else in any way that runs.

    Raises DoesNotFit where even the smallest types do not.
    """
    machine = target or this_machine()
    options = PlanOptions(n_ctx=n_ctx)
    options = replace(options, n_ctx=options.wanted_n_ctx(model_shape(header)))

    def planned(n_bytes: int) -> tuple[Plan, int]:
        other = retyped(header, choose(n_bytes))
        plan = plan_for(other, machine, options)
        return plan, _margin(other, plan, machine)

    def on_gpu(found: tuple[Plan, int]) -> bool:
        return bool(machine.gpus) and found[0].verdict == "all" and _room(*found, machine)

    def runs(found: tuple[Plan, int]) -> bool:
        return found[0].runs and _room(*found, machine)

    least = planned(least_bytes)
    fits = on_gpu if on_gpu(least) else runs
    if not fits(least):
        plan, margin = least
        raise DoesNotFit(
            f"even in the smallest types the model needs {Bytes(plan.total_bytes + margin)} at a "
            f"context of {plan.n_ctx}, and {Bytes(_available(plan, machine))} are there",
            f"a shorter --ctx than {plan.n_ctx}, or another model",
        )
    low, high = least_bytes, most_bytes
    best = least
    if fits(most := planned(most_bytes)):
        low, best = most_bytes, most
    else:
        for _ in range(_ROUNDS):
            middle = (low + high) // 2
            if fits(found := planned(middle)):
                low, best = middle, found
            else:
                high = middle
    return low, _assumed(*best, machine, "GPU" if fits is on_gpu else "memory")


def _room(plan: Plan, margin: int, target: Target) -> bool:
    """Whether the margin is free beside what the plan counts, wherever it will be wanted."""
    if plan.n_offloaded:
        used = [d for d in plan.devices if d.n_layers or d.holds_output]
        return all(d.total_bytes + margin <= d.free_bytes - d.headroom_bytes for d in used)
    return plan.host.total_bytes + margin <= target.host_available_bytes


def _margin(header: GGUFView, plan: Plan, target: Target) -> int:
    margin = int(plan.compute_error * plan.compute_bytes)
    if target.here and not target.gpus:
        from localllm.engine.repack import repacks

        margin += model_sizes(header).repacked_bytes(repacks)[1]
    return margin


def _available(plan: Plan, target: Target) -> int:
    gpus = sum(max(0, d.free_bytes - d.headroom_bytes) for d in plan.devices)
    return gpus + target.host_available_bytes


def _assumed(
    plan: Plan, margin: int, target: Target, where: Literal["GPU", "memory"]
) -> FitAssumed:
    gpus = sum(max(0, d.free_bytes - d.headroom_bytes) for d in plan.devices)
    return FitAssumed(
        where=where,
        available_bytes=gpus if where == "GPU" else _available(plan, target),
        weights_bytes=plan.weights_bytes,
        kv_bytes=plan.kv_bytes + plan.state_bytes,
        compute_bytes=plan.compute_bytes,
        margin_bytes=margin,
        n_ctx=plan.n_ctx,
        cache_type="f16",
    )


class _Retyped(GGUFView):
    def __init__(self, header: GGUFView, tensors: Mapping[str, TensorInfo]) -> None:
        self.name, self.metadata, self.tensors = header.name, header.metadata, tensors


def retyped(header: GGUFView, types: Mapping[str, str]) -> GGUFView:
    """The header as it would be with other `types`, by tensor; offsets are not kept up."""
    known = {kind.name.lower(): kind for kind in GGML_TYPES.values()}
    tensors = dict(header.tensors)
    for name, text in types.items():
        kind, info = known[text.lower()], tensors[name]
        size = info.n_elements // kind.block_elements * kind.block_bytes
        tensors[name] = replace(info, type=kind, size_bytes=size)
    return _Retyped(header, tensors)
