"""bench: how fast a model is here.

Exit codes: 0 when every model has at least one row of figures (rows that failed are warned of);
else the code of the failure of the first model that has none: 4 for memory, 7 for a damaged
file, 1 for a crash or a time limit. `--require-gpu` makes it 4 as soon as any row would have run
on the CPU in part. A model that is not there at all ends the command before anything is measured.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localllm import config
from localllm.bench import options as given
from localllm.bench.auto_cli import forget_models, tune_models
from localllm.bench.files.writing import left_out, write_rows
from localllm.bench.grid import Axes, cases
from localllm.bench.showing.chart import chart_view
from localllm.bench.showing.report import write_report
from localllm.bench.showing.stored import stored_runs
from localllm.bench.showing.table import table
from localllm.errors import DamagedFile, Interrupted, LocalLLMError, UsageProblem
from localllm.library import ModelNames
from localllm.library.bench.bench import Extras, finish, problem_of, sweep_of
from localllm.library.bench.case import Case
from localllm.library.bench.measuring.measure import Method
from localllm.library.bench.record import BenchRun
from localllm.library.bench.stable import StableRule
from localllm.library.bench.sweep import SweepOptions, failures
from localllm.library.find import find_runnable
from localllm.placement import arguments as place
from localllm.registry import Model, Registry
from localllm.ui import Sink, View
from localllm.ui.view import Text, parts

_OUTPUTS = ("table", "md", "csv", "json", "jsonl", "sql")


def bench_command(
    models: ModelNames,
    n_prompt: given.NPrompt = None,
    n_gen: given.NGen = None,
    pg: given.Pg = None,
    n_depth: given.NDepth = None,
    n_batch: given.NBatch = None,
    n_ubatch: given.NUbatch = None,
    threads: given.Threads = None,
    n_gpu_layers: given.GpuLayers = None,
    n_cpu_moe: given.CpuMoe = None,
    flash_attn: given.FlashAttn = None,
    kv: given.Kv = None,
    type_k: given.TypeK = None,
    type_v: given.TypeV = None,
    split_mode: given.SplitMode = None,
    main_gpu: given.MainGpu = None,
    tensor_split: given.TensorSplit = None,
    mmap: given.Mmap = None,
    no_kv_offload: given.NoKvOffload = None,
    repetitions: given.Repetitions = 5,
    warm_up: given.WarmUp = True,
    delay: given.Delay = 0.0,
    prio: given.Priority = 0,
    timeout: given.Timeout = None,
    until_stable: given.UntilStable = None,
    budget: given.Budget = None,
    isolate: given.Isolate = True,
    load: given.Load = False,
    latency: given.Latency = False,
    batched: given.Batched = None,
    serving: given.Serving = None,
    output: given.Output = "table",
    chart: given.Chart = False,
    report: given.Report = None,
    tag: given.Tag = None,
    resume: given.Resume = False,
    auto: given.Auto = None,
    rpc: place.Rpc = None,
    require_gpu: place.RequireGpu = False,
    force: place.Force = False,
    *,
    sink: Sink,
) -> None:
    """Measure prompt processing and token generation, against the memory planned.

    Options under Tests and Setups take comma lists and may be repeated; numbers take ranges.

    Ranges: a-b, a-b+step, a-b*factor. The sweep is the product of all of them.
    """
    _check_output(output, sink)
    settings = config.load()
    registry = Registry.open(settings)
    place.use_workers(rpc)
    wanted = cases(
        given.axes(
            n_prompt=n_prompt, n_gen=n_gen, pg=pg, n_depth=n_depth, n_batch=n_batch,
            n_ubatch=n_ubatch, threads=threads, n_gpu_layers=n_gpu_layers, n_cpu_moe=n_cpu_moe,
            flash_attn=flash_attn, type_k=type_k, type_v=type_v, kv=kv, split_mode=split_mode,
            main_gpu=main_gpu, tensor_split=tensor_split, mmap=mmap,
            no_kv_offload=no_kv_offload, default_threads=settings.threads,
        )
    )  # fmt: skip
    stable = None if until_stable is None else StableRule(
        given.share("--until-stable", until_stable), budget_s=budget or 60.0
    )  # fmt: skip
    options = SweepOptions(
        method=Method(repetitions, warm_up, delay, prio, stable), isolate=isolate,
        timeout_s=timeout, require_gpu=require_gpu, force=force, resume=resume, tag=tag,
        command=shlex.join(["localllm", *sys.argv[1:]]), verbose=sink.verbose,
    )  # fmt: skip
    extras = Extras(
        n_loads=3 if load else 0,
        n_answers=repetitions if latency else 0,
        batched=given.counts("--batched", batched),
        serving=given.counts("--serving", serving),
    )
    if auto is not None:
        default = cases(replace(Axes(), n_threads=(settings.threads or 0,)))
        if wanted != default or any((until_stable, load, latency, batched, serving, chart, report,
                                     resume, output != "table")):  # fmt: skip
            raise UsageProblem("--auto and --no-auto take no tests, setups or formats",
                               "localllm bench MODEL --auto --budget 300")  # fmt: skip
        chosen = [find_runnable(name, registry) for name in models]
        if auto:
            return tune_models(chosen, budget, options, registry, sink)
        return forget_models(chosen, registry, sink)
    found, broken = _found(models, registry)
    done = _measure(found, wanted, options, extras, registry, sink)
    history = stored_runs(registry).runs if report else ()
    _show(replace(done, errors=(*broken, *done.errors)), output, chart, report, sink, history)
    return None


@dataclass(frozen=True)
class Benched:
    """What came of all models: the runs that have rows, and why others have none."""

    runs: tuple[BenchRun, ...]
    errors: tuple[LocalLLMError, ...] = ()


def _found(
    names: Sequence[str], registry: Registry
) -> tuple[list[Model], tuple[LocalLLMError, ...]]:
    """The models; of several, damaged ones apart. What is not there at all is raised."""
    found: list[Model] = []
    broken: list[LocalLLMError] = []
    for name in names:
        try:
            found.append(find_runnable(name, registry))
        except DamagedFile as error:
            if len(names) == 1:
                raise
            broken.append(error)
    return found, tuple(broken)


def _measure(
    models: Sequence[Model],
    wanted: Sequence[Case],
    options: SweepOptions,
    extras: Extras,
    registry: Registry,
    sink: Sink,
) -> Benched:
    runs: list[BenchRun] = []
    errors: list[LocalLLMError] = []
    warned: set[str] = set()

    def warn(text: str) -> None:
        if text not in warned:  # every model would say it again
            warned.add(text)
            sink.warn(text)

    for model in models:
        try:
            sweep = sweep_of(model, wanted, registry, options, warn)
        except DamagedFile as error:
            errors.append(error)
            continue
        try:
            finish(sweep, sink.progress, extras, warn)
            problem = problem_of(sweep)
        except KeyboardInterrupt:
            runs += [sweep.run] if sweep.run.rows else []
            return Benched(tuple(runs), (_interrupted(sweep.run, len(wanted)),))
        except LocalLLMError as error:
            problem = error
        if problem is None or len(sweep.run.rows) > 1:
            runs += [sweep.run] if sweep.run.rows else []
        errors += [problem] if problem else []
    return Benched(tuple(runs), tuple(errors))


def _interrupted(run: BenchRun, n_cases: int) -> Interrupted:
    kept = f"; {len(run.rows)} of {n_cases} rows are kept as #{run.id}" if run.id else ""
    return Interrupted(
        f"interrupted{kept}", "the same command with --resume goes on" if kept else None
    )


def _show(
    done: Benched,
    output: str,
    chart: bool,
    report: str | None,
    sink: Sink,
    history: Sequence[BenchRun] = (),
) -> None:
    first = done.errors[0] if done.errors else None
    if first is not None and not done.runs:
        for error in done.errors[1:]:
            sink.warn(error.message)
        raise first
    for error in done.errors[1:]:
        sink.warn(error.message)
    rows = [row for run in done.runs for row in run.rows]
    if first is None and (failed := failures(rows)):
        why = failed[0][1].message
        sink.warn(f"{len(failed)} of {len(rows)} rows have no figures; the first: {why}")
    if report is not None:
        write_report(done.runs, Path(report), history=history)
    if n := left_out(rows, output):  # type: ignore[arg-type]
        of = "row" if n == 1 else "rows"
        sink.warn(f"{output} has no place for {n} {of} without figures")

    def view(runs: tuple[BenchRun, ...]) -> View:
        if output != "table":
            return Text(write_rows(rows, output).removesuffix("\n"))  # type: ignore[arg-type]
        drawn = parts(chart_view(runs)) if chart else ()
        return [*parts(table(runs)), *drawn]

    sink.show(done.runs, view, ok=first is None, error=first)


def _check_output(output: str, sink: Sink) -> None:
    if output not in _OUTPUTS:
        raise UsageProblem(f"--output {output!r} is none of {', '.join(_OUTPUTS)}")
    if output != "table" and sink.as_json:
        raise UsageProblem("--json and --output both want stdout", "-o json prints the rows alone")
