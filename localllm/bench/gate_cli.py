"""bench gate: exit 5 where a model has become slower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm import config
from localllm.bench.comparing.gate import GateReport, GateRow, GateRule
from localllm.bench.comparing.gating import GateOptions, gate_models
from localllm.bench.comparing.junit import junit_xml
from localllm.bench.comparing.matching import ACROSS
from localllm.bench.comparing.quantities import seconds_of, share_of
from localllm.bench.comparing.summary import gate_cells, gate_markdown, row_name
from localllm.errors import FileGone, GateFailed, Interrupted, LocalLLMError, UsageProblem
from localllm.library.arguments import complete_model
from localllm.registry import Registry
from localllm.ui import Heading, Note, Sink, Table, View
from localllm.ui.outfile import replace_file
from localllm.ui.view import AnyCell, Part, Tone, Toned

_COLUMNS = ("test", "base t/s", "new t/s", "slower by", "99 % bounds", "judged by", "memory",
            "verdict")  # fmt: skip
_TONES: dict[str, Tone] = {"passed": "good", "undecided": "warn", "skipped": "dim"}


def gate_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            autocompletion=complete_model,
            help="What to measure; default the baseline's models.",
        ),
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline", metavar="FILE|ID|TAG|MODEL", help="The run that may not be undercut."
        ),
    ] = "",
    max_regression: Annotated[
        str, typer.Option("--max-regression", metavar="SHARE", help="How much slower is allowed.")
    ] = "5%",
    max_memory_growth: Annotated[
        str | None,
        typer.Option(
            "--max-memory-growth", metavar="SHARE", help="How much more memory is allowed."
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="FILE|ID|TAG", help="Judge this run as it is; measure nothing."
        ),
    ] = None,
    baseline_python: Annotated[
        Path | None,
        typer.Option(
            "--baseline-python",
            metavar="PYTHON",
            help="Python of the install to compare with: both are measured in turn.",
        ),
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=2, help="Samples of each test.")
    ] = 5,
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", min=1, help="Threads, instead of the baseline's."),
    ] = None,
    budget: Annotated[
        str,
        typer.Option("--budget", metavar="TIME", help="For measuring again, a model."),
    ] = "15m",
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail, too, where the noise hides the answer.")
    ] = False,
    across: Annotated[
        list[str] | None,
        typer.Option(
            "--across", metavar="|".join(ACROSS), help="Gate though these differ; repeatable."
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Tag the run that is measured.")] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")
    ] = None,
    summary: Annotated[
        Path | None, typer.Option("--summary", metavar="FILE.md", help="Write Markdown.")
    ] = None,
    *,
    sink: Sink,
) -> None:
    """Fail (exit 5) where a run is slower than its baseline, beyond the noise."""
    options = GateOptions(
        rule=GateRule(
            share_of(max_regression, "--max-regression"),
            None if max_memory_growth is None
            else share_of(max_memory_growth, "--max-memory-growth"),
            seconds_of(budget, "--budget"),
            strict,
        ),
        across=tuple(across or ()),
        run=run,
        baseline_python=baseline_python,
        repetitions=repetitions,
        threads=threads,
        tag=tag,
    )  # fmt: skip
    if not baseline:
        raise UsageProblem("--baseline says what to gate against", "localllm bench history")
    files = [path for path in (junit, summary) if path is not None]
    _check_writable(files)
    try:
        reports = gate_models(models or (), baseline, options, Registry.open(), sink)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing is judged", None) from None
    trouble = _write(reports, junit, summary, sink)
    for report in reports:
        for row in report.rows:
            if row.outcome == "undecided":
                sink.warn(f"{report.model} {row.test}: undecided, the noise is too large")
    error = _failure(reports)
    sink.show(reports, _view, ok=error is None, error=error)
    if trouble is not None and error is None:
        raise trouble


def _failure(reports: tuple[GateReport, ...]) -> GateFailed | None:
    problems = [f"{r.model} {problem}" for r in reports for problem in r.problems]
    if not problems:
        return None
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return GateFailed(f"{problems[0]}{more}")


def _check_writable(files: list[Path]) -> None:
    """Before minutes are spent on measuring."""
    for path in files:
        if path.is_dir():
            raise UsageProblem(f"{path} is a folder", "give the name of a file in it")
        if not path.absolute().parent.is_dir():
            raise FileGone(f"there is no folder {path.parent}", f"mkdir -p {path.parent}")


def _write(
    reports: tuple[GateReport, ...], junit: Path | None, summary: Path | None, sink: Sink
) -> LocalLLMError | None:
    """Write what was asked for. What cannot be written must not hide the verdict: it is warned
    of, and returned."""
    trouble: LocalLLMError | None = None
    files = ((junit, junit_xml(reports)), (summary, gate_markdown(reports)))
    for path, text in files:
        if path is None:
            continue
        try:
            replace_file(path, text)
        except OSError as e:
            trouble = LocalLLMError(f"{path} cannot be written: {e.strerror or e}")
            sink.warn(trouble.message)
    if step := config.environment().get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(step).open("a", encoding="utf-8") as file:
                file.write(gate_markdown(reports))
        except OSError as e:
            sink.warn(f"GITHUB_STEP_SUMMARY {step} cannot be written: {e.strerror or e}")
    return trouble


def _view(reports: tuple[GateReport, ...]) -> View:
    view: list[Part] = []
    for report in reports:
        if len(reports) > 1:
            view.append(Heading(report.model))
        view.append(Table(_COLUMNS, [_cells(row) for row in report.rows]))
        view += [
            Note(f"{row_name(row)}: {text}", "warn")
            for row in report.rows
            for text in row.explained
        ]
        view += [Note(remark) for remark in report.remarks]
    return view


def _cells(row: GateRow) -> list[AnyCell]:
    texts = gate_cells(row)
    verdict = texts[-1].strip("*")
    tone = "bad" if row.problems else _TONES.get(row.outcome, "bad")
    return [*(text or None for text in texts[:-1]), Toned(verdict, tone)]
