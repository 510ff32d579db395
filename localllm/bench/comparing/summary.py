"""A gate's verdict, and a comparison, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.bench.comparing.compare import Compared, Difference
from localllm.bench.comparing.gate import GateReport, GateRow
from localllm.library.bench.record import BenchRow, BenchRun
from localllm.ui import Bytes, Moment, Rate, Seconds

_MARKS = {
    "passed": "passed", "regression": "**regression**", "undecided": "undecided",
    "failed": "**fails now**", "missing": "**missing**", "skipped": "skipped",
}  # fmt: skip


def gate_markdown(reports: Sequence[GateReport]) -> str:
    """A heading, a table and the conditions for each model."""
    parts = []
    for report in reports:
        verdict = "passed" if report.ok else "failed"
        parts.append(f"### Benchmark gate {verdict}: {cell(report.model)}\n\n")
        parts.append(_table(_GATE_COLUMNS, [gate_cells(row) for row in report.rows]))
        said = [f"- {cell(p)}" for p in report.problems]
        said += [f"- {cell(row.test)}: {cell(x)}" for row in report.rows for x in row.explained]
        said += [f"- {cell(remark)}" for remark in report.remarks]
        parts.append("\n" + "\n".join(said) + "\n" if said else "")
        parts.append(f"\n{_gate_conditions(report)}\n\n")
    return "".join(parts)


_GATE_COLUMNS = ("test", "base t/s", "new t/s", "slower by", "99 % bounds", "judged by",
                 "memory", "verdict")  # fmt: skip


def gate_cells(row: GateRow) -> tuple[str, ...]:
    """A row's cells as text; empty where nothing is known."""
    loss = row.loss
    return (
        row_name(row),
        rate_text(row.base),
        rate_text(row.new),
        "" if loss is None else f"{loss.share:+.1%}",
        bounds_text(row),
        "" if row.basis is None or loss is None else _BASES[row.basis].format(n=loss.n),
        "" if row.memory_growth is None else f"{row.memory_growth:+.1%}",
        _MARKS[row.outcome] if not row.problems or row.outcome != "passed" else "**memory**",
    )


_BASES = {
    "interleaved": "{n} pairs in turn", "rounds": "{n} rounds", "samples": "the runs' samples"
}  # fmt: skip


def bounds_text(row: GateRow) -> str:
    """The bounds of the loss, "unknown" where they are infinite."""
    loss = row.loss
    if loss is None:
        return ""
    if loss.low == float("-inf"):
        return "unknown"
    return f"{loss.low:+.1%} to {loss.high:+.1%}"


def row_name(row: GateRow) -> str:
    """The test, and the settings that changed."""
    return f"{row.test} ({', '.join(row.changed)})" if row.changed else row.test


def row_text(row: GateRow) -> str:
    """One row in a sentence, for logs."""
    if row.loss is None:
        return "; ".join((*row.problems, *row.explained)) or row.outcome
    slower = f"{abs(row.loss.share):.1%} {'slower' if row.loss.share > 0 else 'faster'}"
    text = f"{slower}, 99 % bounds {bounds_text(row)}, {gate_cells(row)[5]}"
    return "; ".join((text, *row.problems, *row.explained))


def _gate_conditions(report: GateReport) -> str:
    again = f"; base run again by {report.base_build}" if report.base_build else ""
    return (
        f"Allowed: {report.rule.max_regression:.1%} slower. "
        f"Base: {cell(report.base_origin)}, {_run_text(report.base)}. "
        f"New: {cell(report.new_origin)}, {_run_text(report.new)}{again}. "
        f"Judged in {Seconds(report.took_s)}."
    )


# --- comparisons ------------------------------------------------------------------------


def compare_markdown(found: Sequence[Compared]) -> str:
    """The comparison of each model as a Markdown table with its conditions."""
    parts = []
    for compared in found:
        parts.append(f"### {cell(compared.new.model)}: {cell(compared.base_origin)} and "
                     f"{cell(compared.new_origin)}\n\n")  # fmt: skip
        parts.append(_table(COMPARE_COLUMNS, [compare_cells(row) for row in compared.rows]))
        said = [f"- {cell(remark)}" for remark in compared.remarks]
        said += [f"- {cell(r.test)}, {cell(x)}" for r in compared.rows for x in r.noisy]
        parts.append("\n" + "\n".join(said) + "\n" if said else "")
        parts.append(f"\nBase: {_run_text(compared.base)}. New: {_run_text(compared.new)}.\n\n")
    return "".join(parts)


COMPARE_COLUMNS = ("test", "base t/s", "new t/s", "ratio", "95 % interval", "memory",
                   "J/token", "verdict")  # fmt: skip


def compare_cells(row: Difference) -> tuple[str, ...]:
    """A difference's cells as text; empty where nothing is known."""
    name = f"{row.test} ({', '.join(row.changed)})" if row.changed else row.test
    known = row.ratio_low is not None and row.ratio_high is not None
    return (
        name,
        rate_text(row.base),
        rate_text(row.new),
        "" if row.ratio is None else f"{row.ratio:.3f}",
        f"{row.ratio_low:.3f} to {row.ratio_high:.3f}" if known else "",
        "" if row.memory_bytes is None else _signed_bytes(row.memory_bytes),
        "" if row.joules_per_token_ratio is None else f"{row.joules_per_token_ratio - 1:+.1%}",
        row.verdict,
    )


def _signed_bytes(value: int) -> str:
    return f"{'+' if value > 0 else '-' if value < 0 else ''}{Bytes(abs(value))}"


def rate_text(row: BenchRow | None) -> str:
    """The mean and its deviation; the failure where there is none."""
    if row is None:
        return ""
    if row.failure is not None:
        return row.failure.kind.replace("_", " ")
    return f"{Rate(row.avg_ts, '')} ± {Rate(row.stddev_ts, '')}"


def _run_text(run: BenchRun) -> str:
    """Which run, when and by what."""
    number = f"run {run.id}, " if run.id is not None else ""
    tag = f"tag {cell(run.tag)}, " if run.tag else ""
    made = f"measured {Moment(run.started_at)}" if run.started_at else "of unknown time"
    host = f" on {cell(run.machine.host)}" if run.machine else ""
    first = run.rows[0] if run.rows else None
    build = f", llama.cpp {cell(first.build_commit)}" if first else ""
    return f"{number}{tag}{made}{host}{build}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text that stands for itself in Markdown: on one line, without pipes or tags."""
    one = " ".join(text.split())
    for mark, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`")):
        one = one.replace(mark, safe)
    return one
