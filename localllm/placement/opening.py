"""Loading a model by its plan, and saying truthfully what was done.

with open_model(path, PlanOptions(n_ctx=8192)) as opened:
    opened.context, opened.placed, opened.advice
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from localllm.closing import Closing
from localllm.engine import native, rpc
from localllm.engine.options import ContextOptions, LoadOptions
from localllm.engine.reserve import parse
from localllm.errors import DoesNotFit, GpuRequired
from localllm.formats.gguf import GGUFModel, read_model
from localllm.hardware import UnusedGpu
from localllm.placement.here import this_machine
from localllm.placement.measure import machine_for
from localllm.placement.options import PlanOptions
from localllm.placement.plan import COMPUTE_ERROR, Plan
from localllm.placement.planner import plan_for
from localllm.placement.target import Target
from localllm.ui import Bytes

if TYPE_CHECKING:
    from localllm.engine.context import Context
    from localllm.engine.load import Advance
    from localllm.engine.model import Model

AdviceKind = Literal[
    "gpu_unused", "partly_on_cpu", "beyond_training", "memory_short", "not_planned"
]


@dataclass(frozen=True)
class Advice:
    """Something to tell the user about how the model runs; `hint` is what would change it."""

    kind: AdviceKind
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Placed:
    """Where llama.cpp put the layers, by its own log; the output layer counts as one."""

    n_layers: int
    n_offloaded: int
    devices: tuple[tuple[str, int], ...]  # name and layers, GPUs before "CPU"


@dataclass
class Opened(Closing):
    """A loaded model with its context. Closing frees both."""

    model: Model
    context: Context
    plan: Plan
    placed: Placed
    advice: tuple[Advice, ...]

    def close(self) -> None:
        self.model.close()  # takes its contexts with it


def open_model(
    path: Path,
    options: PlanOptions | None = None,
    *,
    require_gpu: bool = False,
    force: bool = False,
    target: Target | None = None,
    load: LoadOptions | None = None,
    context: ContextOptions | None = None,
    advance: Advance | None = None,
    exact: bool = False,
    adapters: Sequence[tuple[Path, float]] = (),
) -> Opened:
    """Plan, load and make a context; by default everything that fits goes to the GPUs.

    `path` is a GGUF file or a shard of one. `load` and `context` give what a plan does not
    decide (mmap, threads, pooling), `adapters` are LoRAs to attach with their scales.
    `require_gpu` refuses to run any layer on the CPU, `force` loads what does not fit by the
    plan. `advance` gets bytes newly read. `exact` as settled_plan has it.
    Raises GpuRequired, DoesNotFit, and what reading the header, loading and making a context
    raise.
    """
    options = options or PlanOptions()
    model = read_model(path)
    target = target or this_machine()
    plan = settled_plan(model, path, target, options, exact=exact)
    if require_gpu:
        check_gpu(path, plan, target)
    if not plan.runs and not force:
        raise does_not_fit(path.name, plan)
    opened = _load(path, plan, target, load or LoadOptions(), context or ContextOptions(), advance)
    try:
        if require_gpu and opened.placed.n_offloaded < opened.placed.n_layers:
            raise _not_all(path, opened.placed.n_offloaded, opened.placed.n_layers, plan)
        if adapters:
            from localllm.engine.adapter import attach_files

            attach_files(opened.context, adapters)
    except BaseException:
        opened.close()
        raise
    return opened


def settled_plan(
    model: GGUFModel, path: Path, target: Target, options: PlanOptions, *, exact: bool = False
) -> Plan:
    """The plan, with llama.cpp's dry run (0.5 s) only where it could change the layout; with
    `exact` wherever it can be asked, so that compute buffers and copies are its own figures."""
    plan = plan_for(model, target, options)
    if not target.here or plan.unplanned:
        return plan
    if not exact and (not target.gpus or _certain(plan)):
        return plan
    if rpc.engaged():  # the dry run's process would wait for a worker that serves another
        return plan
    # A dry run of a context that is far too long makes its cells all the same: minutes, and
    # gigabytes.
    if exact and plan.missing_bytes > COMPUTE_ERROR * plan.compute_bytes:
        return plan
    with machine_for(model, path) as machine:
        return plan_for(model, target, options, machine)


def does_not_fit(name: str, plan: Plan) -> DoesNotFit:
    """The error for a model that this machine's memory cannot hold."""
    available = plan.host.available_bytes + sum(
        max(0, d.free_bytes - d.headroom_bytes) for d in plan.devices
    )
    hint = (
        f"it would fit with --ctx {plan.largest_n_ctx}"
        if plan.largest_n_ctx
        else "a smaller variant: localllm pull --list"
    )
    return DoesNotFit(
        f"{name} needs {Bytes(plan.total_bytes)} at a context of {plan.n_ctx}, "
        f"{Bytes(plan.missing_bytes)} more than there is ({Bytes(available)})",
        hint,
    )


def _certain(plan: Plan) -> bool:
    """Whether the layout stands even if the estimated buffers are off by all they may be.

    What passes between several GPUs is estimated too coarsely to say so.
    """
    used = [d for d in plan.devices if d.n_layers or d.holds_output]
    return (
        plan.verdict == "all"
        and len(used) == 1
        and used[0].missing_bytes == 0
        and used[0].total_bytes + COMPUTE_ERROR * used[0].compute_bytes
        <= used[0].free_bytes - used[0].headroom_bytes
    )


def _load(
    path: Path,
    plan: Plan,
    target: Target,
    load: LoadOptions,
    context: ContextOptions,
    advance: Advance | None,
) -> Opened:
    from localllm.engine.context import Context
    from localllm.engine.model import Model

    with native.capture() as log:
        model = Model.load(path, loaded_by(plan, load), advance)
        try:
            made = Context(model, _sized(context, plan.context))
        except BaseException:
            model.close()
            raise
    placed = placed_by([line.text for line in log.lines])
    return Opened(model, made, plan, placed, _advice(plan, target, placed))


def loaded_by(plan: Plan, load: LoadOptions) -> LoadOptions:
    """`load` with the places that the plan gives the weights."""
    return replace(
        load,
        n_gpu_layers=plan.load.n_gpu_layers,
        n_cpu_moe=plan.load.n_cpu_moe,
        split_mode=plan.load.split_mode,
        main_gpu=plan.load.main_gpu,
        tensor_split=plan.load.tensor_split,
        devices=plan.load.devices,
        mmap=load.mmap and plan.load.mmap,
    )


def _sized(context: ContextOptions, plan: ContextOptions) -> ContextOptions:
    """`context` with everything that the plan's memory follows from."""
    return replace(
        context,
        n_ctx=plan.n_ctx,
        n_batch=plan.n_batch,
        n_ubatch=plan.n_ubatch,
        n_seq_max=plan.n_seq_max,
        flash_attn=plan.flash_attn,
        type_k=plan.type_k,
        type_v=plan.type_v,
        swa_full=plan.swa_full,
        kv_unified=plan.kv_unified,
        offload_kqv=context.offload_kqv and plan.offload_kqv,
        embeddings=context.embeddings or plan.embeddings,
        pooling=plan.pooling if plan.embeddings else context.pooling,
    )


def placed_by(log: list[str]) -> Placed:
    """Where the lines that llama.cpp logged while loading say that the layers went."""
    layers = parse(log, 0, 0, 0).layers
    names = sorted(set(layers), key=lambda name: (name == "CPU", layers.index(name)))
    counts = tuple((name, layers.count(name)) for name in names)
    return Placed(len(layers), sum(n for name, n in counts if name != "CPU"), counts)


# --- what to say --------------------------------------------------------------------------


def _advice(plan: Plan, target: Target, placed: Placed) -> tuple[Advice, ...]:
    found = [unused_advice(gpu) for gpu in target.unused]
    if target.gpus and placed.n_offloaded < placed.n_layers:
        found.append(
            Advice(
                "partly_on_cpu",
                f"{placed.n_offloaded} of {placed.n_layers} layers are on the GPU",
                _smaller(plan),
            )
        )
    if plan.n_ctx_train and plan.n_ctx > plan.n_ctx_train:
        found.append(
            Advice(
                "beyond_training",
                f"a context of {plan.n_ctx} tokens; the model was trained for {plan.n_ctx_train}",
                f"--ctx {plan.n_ctx_train}",
            )
        )
    if plan.unplanned:
        found.append(Advice("not_planned", f"memory is not planned: {plan.unplanned}"))
    if not plan.runs:
        short = f"memory is {Bytes(plan.missing_bytes)} short: expect swapping or failure"
        found.append(Advice("memory_short", short, _smaller(plan)))
    return tuple(found)


def unused_advice(gpu: UnusedGpu) -> Advice:
    """For a GPU that this build of llama.cpp cannot use: the command that mends it."""
    return Advice("gpu_unused", gpu.message, gpu.rebuilds[0].command if gpu.rebuilds else None)


def _smaller(plan: Plan) -> str:
    if plan.largest_n_ctx_gpu:
        return f"all of them fit with --ctx {plan.largest_n_ctx_gpu}"
    return "a smaller variant: localllm pull --list"


def check_gpu(path: Path, plan: Plan, target: Target) -> None:
    """`--require-gpu`: raise GpuRequired where the plan leaves anything on the CPU."""
    if not target.gpus:
        advice = [unused_advice(gpu) for gpu in target.unused]
        why = advice[0].message if advice else "llama.cpp finds no GPU on this machine"
        raise GpuRequired(why, advice[0].hint if advice else "localllm doctor")
    if plan.n_offloaded < plan.n_layers or not plan.runs:
        raise _not_all(path, plan.n_offloaded, plan.n_layers, plan)
    if plan.load.n_cpu_moe or not plan.context.offload_kqv:
        left = "experts" if plan.load.n_cpu_moe else "the KV cache"
        raise GpuRequired(f"{left} of {path.name} would stay in main memory, as was asked for")


def _not_all(path: Path, n_offloaded: int, n_layers: int, plan: Plan) -> GpuRequired:
    return GpuRequired(
        f"only {n_offloaded} of {n_layers} layers of {path.name} fit on the GPU "
        f"at a context of {plan.n_ctx}",
        _smaller(plan),
    )
