"""`--report FILE.html`: what was measured as one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from localllm import __version__
from localllm.bench.showing import figures
from localllm.bench.showing.conditions import devices_table, rows_table, run_fields, signed_percent
from localllm.bench.showing.labels import entries, run_names
from localllm.bench.showing.trends import trend_key, trends
from localllm.library.bench.record import BenchRun
from localllm.ui import Moment, Note, Rate, Seconds, Table
from localllm.ui.outfile import replace_file
from localllm.ui.page import Block, Folded, Page, Section, render_page


def write_report(runs: Sequence[BenchRun], path: Path, *, history: Sequence[BenchRun] = ()) -> None:
    """Write the page for `runs` to `path`, whole or not at all.

    `history` are other runs of the same models, older or newer, for the trend; those of
    `runs` may be among them. Raises what `replace_file` raises.
    """
    replace_file(path, render_page(report_page(runs, history)))


def report_page(runs: Sequence[BenchRun], history: Sequence[BenchRun] = ()) -> Page:
    """The page before it is text."""
    sections = (
        _speed(runs), _sweeps(runs), _memory(runs), _latency(runs), _parallel(runs),
        _trend(runs, history), _numbers(runs), _conditions(runs),
    )  # fmt: skip
    models = list(dict.fromkeys(run.model for run in runs))
    title = models[0] if len(models) == 1 else f"{len(models)} models"
    return Page(
        f"Benchmark of {title}",
        _subtitle(runs),
        [section for section in sections if section.blocks],
        data={"schema": 1, "runs": list(runs)},
        data_name="bench.json",
        footer=f"Made by localllm {__version__}. The data under Save data is what"
        " localllm bench import and bench compare read.",
    )


def _subtitle(runs: Sequence[BenchRun]) -> str:
    """The machine and the builds, in one line."""
    machines = dict.fromkeys(
        f"{run.machine.cpu}, {', '.join(run.machine.gpus) or 'no GPU'}" if run.machine
        else ", ".join(filter(None, (run.rows[0].cpu_info, run.rows[0].gpu_info)))
        for run in runs if run.machine or run.rows
    )  # fmt: skip
    builds = dict.fromkeys(row.build_commit for run in runs for row in run.rows)
    times = sorted({str(Moment(run.started_at)) for run in runs})
    when = times[0] if len(times) == 1 else f"{times[0]} to {times[-1]}"
    return f"{'; '.join(machines)} · llama.cpp {', '.join(builds)} · {when}"


def _speed(runs: Sequence[BenchRun]) -> Section:
    blocks: list[Block] = [*figures.speed_bars(runs)]
    if (scatter := figures.size_and_speed(runs)) is not None:
        blocks.append(scatter)
    found = entries(runs)
    failed = [e for e in found if e.row.failure is not None]
    noisy = [e for e in found if e.row.evidence is not None and e.row.evidence.noisy]
    if noisy:
        blocks.append(Note(
            f"{len(noisy)} of {len(found)} rows are noisy: something else held the machine back"
            " while they were taken. The table of every number says what.", "warn",
        ))  # fmt: skip
    if failed:
        blocks.append(Note(f"{len(failed)} of {len(found)} rows failed:", "bad"))
        rows = [(e.label, e.row.test, e.row.failure.kind, e.row.failure.message)
                for e in failed if e.row.failure is not None]  # fmt: skip
        blocks.append(Table(("model", "test", "failure", "what happened"), rows))
    return Section("Speed", blocks, "Tokens per second; longer is faster.")


def _sweeps(runs: Sequence[BenchRun]) -> Section:
    return Section("Sweeps", figures.sweep_curves(runs), "How the speed changes with a setting.")


def _memory(runs: Sequence[BenchRun]) -> Section:
    plot = figures.memory_bars(runs)
    found = [e for e in entries(runs) if e.row.memory]
    blocks: list[Block] = [
        figure for figure in (plot, figures.load_bars(runs)) if figure is not None
    ]
    if found:
        blocks.append(Folded("Memory of every row by device and part", devices_table(found)))
    intro = "Predicted: by the plan before loading. Measured: what llama.cpp then allocated."
    return Section("Memory and loading", blocks, intro)


def _latency(runs: Sequence[BenchRun]) -> Section:
    plots = figures.latency_bars(runs)
    return Section("Latency", plots, "Percentiles of whole answers, prompt to text.")


def _parallel(runs: Sequence[BenchRun]) -> Section:
    blocks: list[Block] = [*figures.parallel_curves(runs)]
    rows = [
        (who, r.n_parallel, r.n_requests, r.n_prompt, r.n_gen, Rate(r.decode_tps, ""),
         r.requests_s, Seconds(r.first_token.p50_s), Seconds(r.first_token.p99_s),
         Seconds(r.inter_token.p50_s), Seconds(r.inter_token.p99_s),
         None if r.gap is None else signed_percent(r.gap))
        for run, who in zip(runs, run_names(runs), strict=True)
        for r in run.serving if r.failure is None
    ]  # fmt: skip
    columns = (
        "model", "clients", "requests", "prompt", "answer", "t/s", "requests/s", "first token p50",
        "p99", "between tokens p50", "p99", "gap to batched",
    )  # fmt: skip
    if rows:
        blocks.append(Table(columns, rows))
    intro = (
        "Batched: bare decoding of so many sequences. Serving: as many clients at the engine's"
        " scheduler, each asking again when answered; the gap is what serving costs."
    )
    return Section("Several sequences at once", blocks, intro)


def _trend(runs: Sequence[BenchRun], history: Sequence[BenchRun]) -> Section:
    """Only tests that `runs` have; a run is counted once."""
    wanted = {trend_key(run, row) for run in runs for row in run.rows}
    known = {run.id for run in runs if run.id is not None}
    everything = [*runs, *(run for run in history if run.id is None or run.id not in known)]
    kept = [
        _only(run, wanted) for run in everything
        if any(trend_key(run, row) in wanted for row in run.rows)
    ]  # fmt: skip
    intro = "The same tests under the same settings on the same machine."
    return Section("History", trends(kept), intro)


def _only(run: BenchRun, wanted: set[object]) -> BenchRun:
    from dataclasses import replace

    return replace(run, rows=tuple(r for r in run.rows if trend_key(run, r) in wanted))


def _numbers(runs: Sequence[BenchRun]) -> Section:
    found = entries(runs)
    blocks: list[Block] = [rows_table(found)] if found else []
    intro = (
        "± is the sample deviation. Clocks, temperature and power are those of the devices that"
        " computed; cores are means over the measurement, this program's and everybody else's."
    )
    return Section("Every number", blocks, intro)


def _conditions(runs: Sequence[BenchRun]) -> Section:
    return Section("Conditions", [run_fields(run) for run in runs])
