"""Benchmark models: load by the plan, measure, keep the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from localllm import __version__
from localllm.bench.measure import BenchTest, Timing, measure
from localllm.library import header_of
from localllm.registry import Model, Registry
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.placement import Opened, PlanOptions


@dataclass(frozen=True)
class BenchRow:
    """One test on one model. llama-bench's field names and units first, then ours.

    `predicted_bytes` is the fit plan's figure for this model at this context.
    `weights_read_bytes_s` is the weights' size times the rate of token generation: how fast
    memory was read if each token reads every weight (None for prompt processing, and for
    mixtures of experts, which do not read them all).
    """

    build_commit: str
    backends: str
    cpu_info: str
    gpu_info: str
    model_filename: str
    model_type: str
    model_size: int
    model_n_params: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    type_k: str
    type_v: str
    n_gpu_layers: int
    flash_attn: str
    n_prompt: int
    n_gen: int
    n_depth: int
    test_time: str
    avg_ns: float
    stddev_ns: float
    avg_ts: float
    stddev_ts: float
    samples_ns: tuple[int, ...]
    samples_ts: tuple[float, ...]
    model: str
    test: str
    sha256: str | None
    n_layers: int
    n_layers_offloaded: int
    predicted_bytes: int
    load_s: float
    weights_read_bytes_s: float | None
    localllm_version: str


@dataclass(frozen=True)
class BenchRun:
    """Rows of one model. `id` numbers its measurement in the registry, None for a file that
    is not registered."""

    model: str
    id: int | None
    rows: tuple[BenchRow, ...]


def bench(
    model: Model,
    tests: Sequence[BenchTest],
    options: PlanOptions,
    registry: Registry,
    progress: Progress,
    *,
    repetitions: int = 5,
    threads: int | None = None,
    require_gpu: bool = False,
    force: bool = False,
) -> BenchRun:
    """Load `model` by its plan and time each of `tests`; a registered model keeps the result.

    The context is as long as the longest test needs. Raises what loading raises; Ctrl-C ends
    a measurement within one graph node and keeps nothing of it.
    """
    from localllm.engine.options import ContextOptions
    from localllm.placement import open_model, this_machine
    from localllm.placement.here import look

    hardware = look()
    with progress.bytes(f"load {model.name}", model.size_bytes) as advance:
        opened = open_model(
            model.path,
            options,
            require_gpu=require_gpu,
            force=force,
            target=this_machine(hardware),
            context=ContextOptions(n_threads=threads or 0),
            advance=advance,
        )
    with opened:
        total = len(tests) * (repetitions + 1)
        with progress.steps(f"bench {model.name}", total) as advance:
            timings = [measure(opened.context, t, repetitions, advance) for t in tests]
        rows = tuple(_row(model, opened, timing, hardware.cpu.model) for timing in timings)
    number = None
    if model.id is not None:
        number = registry.record(model, "bench", {"rows": [asdict(row) for row in rows]})
    return BenchRun(model.name, number, rows)


def _row(model: Model, opened: Opened, timing: Timing, cpu: str) -> BenchRow:
    from localllm.engine.build import build_info

    build, info, context = build_info(), opened.model.info, opened.context
    dense = not header_of(model).arch_u32("expert_count", 0)
    reads = timing.n_gen and dense
    return BenchRow(
        build_commit=build.commit,
        backends=",".join(build.backends),
        cpu_info=cpu,
        gpu_info=", ".join(d.description for d in build.gpu_devices),
        model_filename=str(model.path),
        model_type=info.description,
        model_size=info.size_bytes,
        model_n_params=info.n_params,
        n_batch=context.options.n_batch,
        n_ubatch=context.options.n_ubatch,
        n_threads=context.n_threads,
        type_k=context.options.type_k,
        type_v=context.options.type_v,
        n_gpu_layers=opened.plan.n_gpu_layers,
        flash_attn=context.options.flash_attn,
        n_prompt=timing.n_prompt,
        n_gen=timing.n_gen,
        n_depth=0,
        test_time=timing.test_time,
        avg_ns=timing.avg_ns,
        stddev_ns=timing.stddev_ns,
        avg_ts=timing.avg_ts,
        stddev_ts=timing.stddev_ts,
        samples_ns=timing.samples_ns,
        samples_ts=timing.samples_ts,
        model=model.name,
        test=timing.test,
        sha256=model.weights[0].sha256 if model.weights else None,
        n_layers=opened.placed.n_layers,
        n_layers_offloaded=opened.placed.n_offloaded,
        predicted_bytes=opened.plan.total_bytes,
        load_s=opened.model.load_s,
        weights_read_bytes_s=info.size_bytes * timing.avg_ts if reads else None,
        localllm_version=__version__,
    )
