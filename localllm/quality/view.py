"""Figures of quality as people read them."""

from __future__ import annotations

from localllm.engine.quality.figures import Divergence, Spread
from localllm.engine.quality.interval import Estimate
from localllm.library.quality.record import Quality, QualityReport
from localllm.ui import Bytes, Fields, Heading, Note, Seconds, Table, View
from localllm.ui.view import AnyCell, Part


def view_of(report: QualityReport) -> View:
    """A table of all models; of a single one every figure after it."""
    parts: list[Part] = []
    if report.rows:
        parts.append(_table(report))
    if len(report.rows) == 1 and report.rows[0].figures.divergence is not None:
        parts += _details(report.rows[0], report.rows[0].figures.divergence)
    return [*parts, *(Note(line) for line in _notes(report))]


def _table(report: QualityReport) -> Table:
    columns = ["model", "size", "bpw", "PPL"]
    if report.base is not None:
        columns += ["PPL / base", "KLD", "KLD 99 %", "Δp RMS", "same top"]
    return Table([*columns, "time"], [_row(row) for row in report.rows])


def _row(row: Quality) -> tuple[AnyCell, ...]:
    figures, against = row.figures, row.figures.divergence
    bits = row.bits_per_weight
    cells: list[AnyCell] = [
        row.model,
        Bytes(row.size_bytes),
        None if bits is None else round(bits, 2),
    ]
    cells.append(_with_error(figures.perplexity))
    if against is not None:
        cells += [
            _with_error(against.perplexity.ratio),
            _with_error(against.mean_kld),
            f"{against.kld.p99:.4g}",
            _with_error(against.rms_p_diff, percent=True),
            _with_error(against.same_top, percent=True),
        ]
    return (*cells, "measured before" if row.reused else Seconds(row.seconds))


def _details(row: Quality, d: Divergence) -> list[Part]:
    p = d.perplexity
    changes = [
        ("PPL", _interval(row.figures.perplexity)),
        ("PPL of the base", _interval(p.base_perplexity)),
        ("PPL / base", _interval(p.ratio)),
        ("ln(PPL / base)", _interval(p.ln_ratio)),
        ("PPL - base", _interval(p.difference)),
        ("correlation", None if p.correlation is None else f"{100 * p.correlation:.2f} %"),
        ("KLD, mean", _interval(d.mean_kld)),
        ("Δp, mean", _interval(d.mean_p_diff, percent=True)),
        ("Δp, RMS", _interval(d.rms_p_diff, percent=True)),
        ("same top token", _interval(d.same_top, percent=True)),
    ]
    names = ("maximum", "99.9 %", "99 %", "95 %", "90 %", "75 %", "median", "25 %", "10 %", "5 %",
             "1 %", "0.1 %", "minimum")  # fmt: skip
    pairs = zip(names, _values(d.kld), _values(d.p_diff), strict=True)
    rows = [(name, f"{kld:.6f}", f"{100 * change:+.3f} %") for name, kld, change in pairs]
    return [
        Heading("Against the base"), Fields(changes),
        Heading("By token"), Table(("", "KLD", "Δp"), rows),
    ]  # fmt: skip


def _values(spread: Spread) -> tuple[float, ...]:
    return (
        spread.maximum, spread.p99_9, spread.p99, spread.p95, spread.p90, spread.p75,
        spread.median, spread.p25, spread.p10, spread.p5, spread.p1, spread.p0_1, spread.minimum,
    )  # fmt: skip


def _with_error(e: Estimate, *, percent: bool = False) -> str:
    scale, unit = (100.0, " %") if percent else (1.0, "")
    error = e.standard_error if e.clustered_error is None else e.clustered_error
    about = "" if error is None else f" ± {scale * error:.2g}"
    return f"{scale * e.value:.4g}{about}{unit}"


def _interval(e: Estimate, *, percent: bool = False) -> str:
    scale, unit = (100.0, " %") if percent else (1.0, "")
    if e.low is None or e.high is None:
        return _with_error(e, percent=percent)
    ends = f"{scale * e.low:.4g} to {scale * e.high:.4g}{unit}"
    return f"{_with_error(e, percent=percent)}  ({ends})"


def _notes(report: QualityReport) -> list[str]:
    if not report.rows:
        return []
    first = report.rows[0]
    figures = first.figures
    of = "" if first.complete else f" of {first.n_chunks}"
    text = f"{report.text.name}: {figures.n_chunks}{of} contexts of {report.settings.n_ctx} tokens"
    against = f", against {report.base.name}" if report.base else ""
    notes = [f"{text}, {figures.n_tokens} scored{against}; llama.cpp {first.build_commit}"]
    if len(report.rows) == 1 and figures.perplexity.low is not None:
        notes.append("±: standard error by context, and the 95 % interval; "
                     "llama-perplexity's own ± (by token) is in --json")  # fmt: skip
    elif figures.perplexity.clustered_error is not None:
        notes.append("±: standard error by context; llama-perplexity's own is in --json")
    if any(row.reused for row in report.rows):
        notes.append("measured before: --again measures anew")
    return notes
