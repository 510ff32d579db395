"""bench history, bench show, bench export: what was measured before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from localllm.bench.comparing.baseline import resolve_runs
from localllm.bench.files.writing import FORMATS, left_out, write_rows
from localllm.bench.showing.chart import chart_view
from localllm.bench.showing.conditions import signed_percent
from localllm.bench.showing.history import History, RunLine, Trend, history
from localllm.bench.showing.report import write_report
from localllm.bench.showing.shown import run_view
from localllm.bench.showing.stored import Skipped, find_runs, stored_runs
from localllm.bench.showing.trends import trends
from localllm.errors import UsageProblem
from localllm.library.arguments import complete_model
from localllm.library.bench.record import BenchRun
from localllm.registry import Registry
from localllm.ui import Moment, Note, Rate, Sink, Table
from localllm.ui.outfile import replace_file
from localllm.ui.plot import sparkline
from localllm.ui.view import AnyCell, Part, Toned, parts

Chart = Annotated[bool, typer.Option("--chart", help="Draw it in the terminal.")]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Write it as a page of its own."),
]


def history_command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="Only this model's runs.", autocompletion=complete_model
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Runs listed at most.")] = 20,
    chart: Chart = False,
    report: Report = None,
    *,
    sink: Sink,
) -> None:
    """List what was benchmarked, and how each test's speed went."""
    stored = stored_runs(Registry.open(), model)
    _say_skipped(stored.skipped, sink)
    if report is not None:
        if not stored.runs:
            raise UsageProblem("there is no run to report", "localllm bench MODEL")
        newest = {run.model: run for run in reversed(stored.runs)}
        write_report(tuple(newest.values()), report, history=stored.runs)
        sink.note(f"the newest run of each model and all trends: {report}")
    plots = trends(stored.runs) if chart else ()
    sink.show(history(stored), lambda h: [*_history_view(h, limit, sink), *plots])


def show_command(
    run: Annotated[str, typer.Argument(metavar="ID", help="A run's ID, tag, model or file.")],
    chart: Chart = False,
    report: Report = None,
    *,
    sink: Sink,
) -> None:
    """Show everything of one run: figures, evidence, machine, versions."""
    registry = Registry.open()
    runs = resolve_runs(run, registry).runs
    if report is not None:
        write_report(runs, report, history=stored_runs(registry).runs)
        sink.note(f"the report: {report}")
    plots = parts(chart_view(runs)) if chart else ()
    sink.show(runs, lambda runs: [*(part for run in runs for part in run_view(run)), *plots])


@dataclass(frozen=True)
class Exported:
    """`left_out` rows failed, and this format has no place for them."""

    path: str
    format: str
    runs: int
    rows: int
    left_out: int


def export_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID|TAG|MODEL]...", help="Which runs; all without a name."),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="runs|md|csv|json|jsonl|sql",
            help="runs: everything, as localllm reads it; the others as llama-bench writes them.",
        ),
    ] = "runs",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write here, not to stdout.")
    ] = None,
    *,
    sink: Sink,
) -> None:  # fmt: skip
    """Write runs to a file, in llama-bench's formats or whole."""
    if output not in ("runs", *FORMATS):
        raise UsageProblem(f"-o {output!r} is none of runs, {', '.join(FORMATS)}")
    registry = Registry.open()
    stored = find_runs(names, registry) if names else stored_runs(registry)
    _say_skipped(stored.skipped, sink)
    if not stored.runs:
        raise UsageProblem("there is no run to export", "localllm bench history")
    rows = [row for run in stored.runs for row in run.rows]
    lost = left_out(rows, output)  # type: ignore[arg-type]
    if lost:
        sink.warn(f"{lost} failed rows are left out: {output} has no place for them")
    text = document(stored.runs) if output == "runs" else write_rows(rows, output)  # type: ignore[arg-type]
    if out is not None:
        replace_file(out, text)
        done = Exported(str(out), output, len(stored.runs), len(rows) - lost, lost)
        sink.show(done, lambda d: Note(f"{d.path}: {d.runs} runs, {d.rows} rows"))
    elif sink.as_json:
        sink.show({"schema": 1, "runs": stored.runs})
    else:
        sink.write(text)


def document(runs: tuple[BenchRun, ...]) -> str:
    """Whole runs as JSON: what `bench import` and `bench compare` read without loss."""
    import json

    from localllm.ui.sink import to_json

    return json.dumps({"schema": 1, "runs": to_json(runs)}, ensure_ascii=False, indent=1) + "\n"


def _say_skipped(skipped: tuple[Skipped, ...], sink: Sink) -> None:
    reasons: dict[str, list[Skipped]] = {}
    for one in skipped:
        reasons.setdefault(one.reason, []).append(one)
    for reason, group in reasons.items():
        ids = ", ".join(f"#{one.id}" for one in group[:5]) + (" ..." if len(group) > 5 else "")
        sink.warn(f"{len(group)} benchmarks are passed over ({ids}): {reason}")


# --- views ------------------------------------------------------------------------------------


def _history_view(found: History, limit: int, sink: Sink) -> list[Part]:
    columns = ("id", "measured", "model", "tag", "machine", "tests", "speed (t/s)", "remarks")
    shown = found.runs[:limit]
    rows = [_run_cells(line) for line in shown]
    view: list[Part] = [Table(columns, rows, empty="nothing was benchmarked yet")]
    if not rows:
        view.append(Note("nothing was benchmarked yet: localllm bench MODEL"))
    if len(found.runs) > limit:
        view.append(Note(f"{len(found.runs) - limit} older runs: --limit {len(found.runs)}"))
    ids = {line.id for line in shown}
    trended = [t for t in found.trends if len(t.ids) > 1 and t.ids[-1] in ids]
    if trended:
        heads = ("model", "test", "settings", "machine", "runs", "trend", "t/s", "change")
        cells = [_trend_cells(t, ascii=not sink.is_terminal) for t in trended]
        view += [Table(heads, cells)]
        view.append(Note("change: to the run before; dim where the 95 % intervals overlap"))
    return view


def _run_cells(line: RunLine) -> tuple[AnyCell, ...]:
    tests = list(line.rates_ts.items())
    speed = ", ".join(f"{test} {Rate(rate, '')}" for test, rate in tests[:3])
    remarks = [
        "" if line.complete else "interrupted",
        f"{line.n_failed} failed" if line.n_failed else "",
        f"{line.n_noisy} noisy" if line.n_noisy else "",
        "" if line.source == "localllm" else f"from {line.source}",
    ]
    said = ", ".join(filter(None, remarks))
    return (
        line.id, Moment(line.started_at), line.model, line.tag or "", line.host or "", line.n_rows,
        speed + (", ..." if len(tests) > 3 else ""), Toned(said, "warn"),
    )  # fmt: skip


def _trend_cells(trend: Trend, ascii: bool) -> tuple[AnyCell, ...]:
    change: AnyCell = None
    if trend.change is not None:
        tone: Any = "dim" if trend.within_noise else "good" if trend.change > 0 else "bad"
        change = Toned(signed_percent(trend.change), tone)
    return (
        trend.model, trend.test, trend.settings, trend.machine, len(trend.ids),
        sparkline(trend.rates_ts[-16:], ascii=ascii), Rate(trend.rates_ts[-1], ""), change,
    )  # fmt: skip
