"""What `--auto` may choose between on a machine, for a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from localllm.library.bench.case import Setup

Part = Literal["pp", "tg"]


@dataclass(frozen=True)
class Tuning:
    """The settings that are searched. Prompts and generation may want different threads."""

    setup: Setup
    n_threads_batch: int

    def of(self, part: Part) -> Setup:
        """The setup that one part of the work runs under."""
        threads = self.n_threads_batch if part == "pp" else self.setup.n_threads
        return replace(self.setup, n_threads=threads)


@dataclass(frozen=True)
class Axis:
    """One setting: its values, how a tuning gets one, and the parts of the work it concerns.

    On an `ordered` axis speed rises to one top and falls again, so neighbours of the best are
    tried until they get slower; of the others every value is tried. `within_prompt`: two
    values differ only in prompts that are longer than the smaller one.
    """

    name: str
    values: tuple[object, ...]
    parts: tuple[Part, ...]
    ordered: bool
    read: Callable[[Tuning], object]
    with_value: Callable[[Tuning, object], Tuning]
    within_prompt: bool = False


@dataclass(frozen=True)
class Cores:
    """Of this machine, as far as threads may use them."""

    usable_logical: int
    physical: int
    performance: int | None


def axes(
    cores: Cores, n_layers: int, *, gpus: bool, experts: bool, kv_types: Sequence[str]
) -> tuple[Axis, ...]:
    """The settings worth searching, those that others depend on first."""
    found = [_offload(n_layers, experts)] if gpus else []
    threads = thread_counts(cores)
    if len(threads) > 1:
        found += [
            _axis("threads for generation", threads, ("tg",), "n_threads"),
            Axis("threads for prompts", threads, ("pp",), True,
                 lambda t: t.n_threads_batch,
                 lambda t, v: replace(t, n_threads_batch=v)),  # type: ignore[arg-type]
        ]  # fmt: skip
    found += [
        # "auto" is on wherever the device can
        _axis("flash attention", ("auto", "off"), ("pp", "tg"), "flash_attn", ordered=False),
        _axis("micro-batch", (128, 256, 512, 1024, 2048), ("pp",), "n_ubatch"),
        _axis("batch", (512, 1024, 2048, 4096), ("pp",), "n_batch"),
    ]
    if len(kv_types) > 1:
        found.append(Axis("KV cache type", tuple(kv_types), ("pp", "tg"), False,
                          lambda t: t.setup.type_k, _with_kv))  # fmt: skip
    return tuple(found)


def thread_counts(cores: Cores) -> tuple[int, ...]:
    """Counts worth trying: round numbers up to every logical core, and the machine's own."""
    own = {cores.physical, cores.usable_logical, cores.performance or cores.physical}
    steps = {n for k in range(11) for n in (1 << k, 3 << k)}
    return tuple(sorted(n for n in own | steps if n <= cores.usable_logical))


def _axis(
    name: str,
    values: Sequence[object],
    parts: tuple[Part, ...],
    field: str,
    *,
    ordered: bool = True,
) -> Axis:
    def with_value(tuning: Tuning, value: object) -> Tuning:
        setup = replace(tuning.setup, **{field: value})  # type: ignore[arg-type]
        if setup.n_ubatch > setup.n_batch:  # llama.cpp would cut the micro-batch down
            other = "n_batch" if field == "n_ubatch" else "n_ubatch"
            setup = replace(setup, **{other: value})  # type: ignore[arg-type]
        return replace(tuning, setup=setup)

    return Axis(
        name, tuple(values), parts, ordered, lambda t: getattr(t.setup, field), with_value,
        within_prompt=field in ("n_batch", "n_ubatch"),
    )  # fmt: skip


def _offload(n_layers: int, experts: bool) -> Axis:
    """All that fits by the plan, nothing, or (mixtures of experts) everything but the experts."""
    values: list[object] = ["what fits", "nothing"]
    if experts:
        values.append("all but the experts")

    def read(tuning: Tuning) -> object:
        if tuning.setup.n_cpu_moe:
            return "all but the experts"
        return "nothing" if tuning.setup.n_gpu_layers == 0 else "what fits"

    def with_value(tuning: Tuning, value: object) -> Tuning:
        layers = {"what fits": None, "nothing": 0, "all but the experts": n_layers}[str(value)]
        experts_here = n_layers if value == "all but the experts" else 0
        setup = replace(tuning.setup, n_gpu_layers=layers, n_cpu_moe=experts_here)
        return replace(tuning, setup=setup)

    return Axis("offload", tuple(values), ("pp", "tg"), False, read, with_value)


def _with_kv(tuning: Tuning, value: object) -> Tuning:
    kind = str(value)
    flash = tuning.setup.flash_attn
    if kind not in ("f32", "f16", "bf16") and flash == "off":
        flash = "auto"  # llama.cpp has quantized V only with flash attention
    return replace(tuning, setup=replace(tuning.setup, type_k=kind, type_v=kind, flash_attn=flash))
