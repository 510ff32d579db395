"""How a model loads best on this machine, as `bench --auto` found it and the registry keeps it.

What the user says on the command line stands before it, and it stands before the general
defaults.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

from localllm.engine.options import KV_TYPES, ContextOptions, FlashAttention
from localllm.hardware import Hardware
from localllm.hardware.fingerprint import fingerprint
from localllm.placement import PlanOptions
from localllm.registry import Model, Registry


@dataclass(frozen=True)
class LoadDefaults:
    """Options under llama.cpp's names. `n_gpu_layers` None offloads what fits by the plan.
    `pp_speedup` and `tg_speedup` are what they gained over the general defaults when measured;
    `found_at` is in seconds since the epoch."""

    n_threads: int
    n_threads_batch: int
    n_batch: int
    n_ubatch: int
    flash_attn: FlashAttention
    type_k: str
    type_v: str
    n_gpu_layers: int | None
    n_cpu_moe: int
    pp_speedup: float
    tg_speedup: float
    found_at: float

    def apply(self, plan: PlanOptions, *, said: Collection[str] = ()) -> PlanOptions:
        """`plan` with these options, but for the fields of it that the user has `said`."""
        names = ("n_batch", "n_ubatch", "flash_attn", "type_k", "type_v", "n_gpu_layers",
                 "n_cpu_moe")  # fmt: skip
        values = {name: getattr(self, name) for name in names if name not in said}
        if plan.flash_attn == "off" and "flash_attn" in said:
            values.pop("type_v", None)  # a quantized V needs flash attention
        if "n_gpu_layers" in said:
            values.pop("n_cpu_moe", None)  # found together with its own number of layers
        return replace(plan, **values)

    def threads(self, context: ContextOptions) -> ContextOptions:
        """`context` with these threads."""
        return replace(context, n_threads=self.n_threads, n_threads_batch=self.n_threads_batch)


def load_defaults(model: Model, machine: str) -> LoadDefaults | None:
    """What is kept for `model` on the `machine` of this fingerprint; None where there is nothing,
    or nothing that this version understands."""
    given = model.extras.get(_key(machine))
    if not isinstance(given, Mapping) or {f.name for f in fields(LoadDefaults)} - set(given):
        return None
    values: dict[str, Any] = {f.name: given[f.name] for f in fields(LoadDefaults)}
    return LoadDefaults(**values) if _sound(values) else None


def tuned(
    model: Model,
    hardware: Hardware,
    plan: PlanOptions,
    context: ContextOptions,
    said: Collection[str] = (),
) -> tuple[PlanOptions, ContextOptions] | None:
    """`plan` and `context` as `bench --auto` found them best for `model` on this machine, but
    for the fields that the user has `said`; None where nothing is kept."""
    found = load_defaults(model, fingerprint(hardware))
    if found is None:
        return None
    threads = context if context.n_threads else found.threads(context)
    return found.apply(plan, said=said), threads


def keep_defaults(registry: Registry, model: Model, machine: str, found: LoadDefaults) -> Model:
    """Keep `found` for `model` on this machine, in place of what was kept before."""
    return registry.note(model, _key(machine), asdict(found))


def forget_defaults(registry: Registry, model: Model, machine: str) -> Model:
    """Go back to the general defaults on this machine."""
    return registry.note(model, _key(machine), None)


def _key(machine: str) -> str:
    """Of a model's extras; one a machine, since several may share a home."""
    return f"load_defaults.{machine}"


def _sound(values: Mapping[str, Any]) -> bool:
    """Whether values from a file can be handed to llama.cpp."""
    counts = ("n_threads", "n_threads_batch", "n_batch", "n_ubatch")
    layers = values["n_gpu_layers"]
    return (
        all(_count(values[name], 1) for name in counts)
        and _count(values["n_cpu_moe"], 0)
        and (layers is None or _count(layers, -1))
        and values["flash_attn"] in get_args(FlashAttention)
        and values["type_k"] in KV_TYPES
        and values["type_v"] in KV_TYPES
        and all(
            isinstance(values[name], int | float)
            for name in ("pp_speedup", "tg_speedup", "found_at")
        )
    )


def _count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
