"""Benchmark a model: rows by llama-bench's method, and what llama-bench does not measure.

run = bench(model, cases(Axes(n_prompt=(512,), n_gen=(128,))), registry, progress)
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from localllm.errors import GpuRequired, LocalLLMError, UsageProblem
from localllm.library.bench.case import BenchTest, Case
from localllm.library.bench.largest import FIT, counts_up_to, largest_parallel
from localllm.library.bench.measuring.extras import Extra, Row, What
from localllm.library.bench.measuring.failures import error_of
from localllm.library.bench.measuring.measure import DevicePeak
from localllm.library.bench.measuring.workers import RowFailed
from localllm.library.bench.outcome import subject_of
from localllm.library.bench.record import BatchedRow, BenchRun, LatencyRow, ServingRow
from localllm.library.bench.sweep import Sweep, SweepOptions, failures, plan_options
from localllm.registry import Model, Registry
from localllm.ui import Progress

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Extras:
    """What to measure beside the rows; 0 and empty is nothing.

    `n_loads`: cold and warm loads each; `n_answers`: of the latency test; `batched`: numbers of
    sequences decoding together; `serving`: of clients at the engine's scheduler. (FIT,) is up to
    the largest number that fits.
    """

    n_loads: int = 0
    n_answers: int = 0
    batched: tuple[int, ...] = ()
    serving: tuple[int, ...] = ()


def bench(
    model: Model,
    cases: Sequence[Case],
    registry: Registry,
    progress: Progress,
    options: SweepOptions | None = None,
    extras: Extras | None = None,
    warn: Tell = lambda text: None,
) -> BenchRun:
    """Measure every case of `model`, then the extras; a registered model keeps the run.

    Rows that fail say so in their `failure`; `problem_of` tells whether any has figures.
    Raises DamagedFile, FileGone, UsageProblem (`resume` of a model that is not registered), and
    KeyboardInterrupt: what was finished is kept.
    """
    sweep = sweep_of(model, cases, registry, options, warn)
    return finish(sweep, progress, extras or Extras(), warn)


def sweep_of(
    model: Model,
    cases: Sequence[Case],
    registry: Registry,
    options: SweepOptions | None = None,
    warn: Tell = lambda text: None,
) -> Sweep:
    """The sweep, looked up where it is to be resumed, and not begun: hardware, build and memory
    bandwidth (0.6 s, only where tokens are generated) are looked at here, while it is quiet."""
    from localllm.engine.build import build_info
    from localllm.formats.gguf import read_model
    from localllm.library.bench.conditions.machine import machine_record, versions
    from localllm.placement import this_machine, unused_advice
    from localllm.placement.here import look

    options = options or SweepOptions()
    if options.resume and model.id is None:
        raise UsageProblem(
            f"{model.name} is not in the registry, so no rows of it are kept to resume from",
            f"localllm pull --in-place {model.name}",
        )
    hardware = look()
    target = this_machine(hardware)
    for advice in map(unused_advice, target.unused):
        warn(advice.message + (f"; try: {advice.hint}" if advice.hint else ""))
    sweep = Sweep(
        subject_of(model, build_info(), hardware.cpu.model),
        read_model([file.path for file in model.weights]),
        cases,
        options,
        registry,
        target,
        machine_record(hardware, platform.node()),
        versions(),
        peaks_of(cases),
        warn,
    )
    if options.resume and not sweep.resume():
        warn(f"{model.name}: no interrupted run of this sweep; starting a new one")
    return sweep


def finish(sweep: Sweep, progress: Progress, extras: Extras, warn: Tell) -> BenchRun:
    """Measure what is left of the sweep and the extras, and mark the run complete."""
    sweep.measure(progress)
    if problem_of(sweep) is None:
        _extras(sweep, progress, extras, warn)
    sweep.keep(replace(sweep.run, complete=True))
    return sweep.run


def problem_of(sweep: Sweep) -> LocalLLMError | None:
    """The error that a finished sweep ends in: none of its rows has figures, or GPUs were
    required and some row would have run without. Else None."""
    refused = next((error for error in sweep.errors if isinstance(error, GpuRequired)), None)
    failed = failures(sweep.run.rows)
    if refused is not None or len(failed) < len(sweep.run.rows) or not failed:
        return refused
    if sweep.errors:
        return sweep.errors[0]
    row, failure = failed[0]
    return error_of(failure, f"{row.model} {row.test}")


def _extras(sweep: Sweep, progress: Progress, extras: Extras, warn: Tell) -> None:
    case = sweep.cases[0]
    name, path = sweep.run.model, sweep.subject.model.path
    if extras.n_loads and sweep.run.load is None:
        from localllm.library.bench.measuring.loading import load_times

        with progress.steps(f"load {name}", 2 * extras.n_loads + 1) as advance:
            try:
                times = load_times(
                    path, plan_options(case.setup, case.test), repetitions=extras.n_loads,
                    force=sweep.options.force, advance=advance,
                    adapters=sweep.subject.model.attached,
                )  # fmt: skip
                sweep.keep(replace(sweep.run, load=times))
            except LocalLLMError as error:
                warn(f"{name}: load times: {error.message}")
    if extras.n_answers and not sweep.run.latency:
        rows = _extra(sweep, "latency", (extras.n_answers,), progress, warn)
        latency = tuple(row for row in rows if isinstance(row, LatencyRow))
        sweep.keep(replace(sweep.run, latency=latency))
    if extras.batched and not sweep.run.batched:
        rows = _extra(sweep, "batched", extras.batched, progress, warn)
        batched = tuple(row for row in rows if isinstance(row, BatchedRow))
        sweep.keep(replace(sweep.run, batched=batched))
    if extras.serving and not sweep.run.serving:
        rows = _extra(sweep, "serving", extras.serving, progress, warn)
        serving = tuple(row for row in rows if isinstance(row, ServingRow))
        sweep.keep(replace(sweep.run, serving=serving))


def _extra(
    sweep: Sweep, what: What, counts: tuple[int, ...], progress: Progress, warn: Tell
) -> tuple[Row, ...]:
    """Under the first case's setup, with the sweep's own prompt and generation lengths."""
    setup = sweep.fitted(sweep.cases[0]).setup
    test = _size(sweep.cases)
    options = plan_options(setup, test)
    if counts == (FIT,):
        most = largest_parallel(
            lambda n: sweep.planned(replace(options, n_parallel=n)), setup.n_batch
        )
        counts = counts_up_to(most)
    order = Extra(
        what=what,
        path=str(sweep.subject.model.path),
        options=options,
        n_threads=setup.n_threads,
        n_prompt=test.n_prompt,
        n_gen=test.n_gen,
        counts=counts,
        require_gpu=sweep.options.require_gpu,
        force=sweep.options.force,
        batched=sweep.run.batched if what == "serving" else (),
        adapters=sweep.subject.adapters,
    )
    worker = sweep.worker()
    try:
        with progress.steps(f"{what} {sweep.run.model}", order.n_steps) as advance:
            return worker.extra(order, lambda ns: advance(1))
    except RowFailed as failed:
        warn(f"{sweep.run.model}: {what}: {failed.failure.message}")
        return ()
    finally:
        worker.close()


def _size(cases: Sequence[Case]) -> BenchTest:
    """The first prompt and the first generation length of the sweep, else llama-bench's."""
    prompts = [case.test.n_prompt for case in cases if case.test.n_prompt]
    gens = [case.test.n_gen for case in cases if case.test.n_gen]
    return BenchTest((prompts or [512])[0], (gens or [128])[0])


def peaks_of(cases: Sequence[Case]) -> tuple[DevicePeak, ...]:
    """What the devices' memory reads at most; measured for the CPU. Nothing where no row is of
    token generation alone, the only kind that it is compared with."""
    from localllm.library.bench.conditions.bandwidth import measure_peaks

    if not any(case.test.n_gen and not case.test.n_prompt for case in cases):
        return ()
    peaks = measure_peaks(max(case.setup.n_threads for case in cases))
    return tuple(DevicePeak(name, peak.bytes_s, peak.basis) for name, peak in peaks.items())
