"""The report of a dry run, as it is drawn."""

from __future__ import annotations

from localllm.finetune.data.report import DataReport, Piece, Rendered
from localllm.finetune.data.spec import FORMAT_NAMES
from localllm.ui import Bytes, Count, Fields, Heading, Note, Percent, Table
from localllm.ui.view import AnyCell, Part, Toned

_BAR = 30  # characters of the longest bar
_LONGEST_TEXT = 2000  # characters of a piece


def report_view(report: DataReport) -> list[Part]:
    """Parts of a View, in reading order."""
    found: list[Part] = [
        Heading("Data"),
        _sources(report),
        Fields(_told(report)),
        Heading("Examples"),
        Fields(_counts(report)),
    ]
    if report.lengths is not None:
        found += [Heading("Tokens of an example"), _histogram(report)]
    if report.problems or report.n_empty:
        found += [Heading("Rows that cannot be used"), _problems(report)]
    for sample in report.samples:
        found += [Heading(_title(sample)), _sample(sample)]
    if report.samples:
        found.append(Note("the parts marked yes are what the model learns to say"))
    return found


def _sources(report: DataReport) -> Table:
    rows: list[list[AnyCell]] = [
        [Toned(f.name, "name"), Bytes(f.size_bytes), f.sha256[:12]] for f in report.files[:20]
    ]
    if len(report.files) > 20:
        rest = report.files[20:]
        rows.append([f"{len(rest)} more", Bytes(sum(f.size_bytes for f in rest)), ""])
    if report.n_votes:
        rows.append([Toned("judged answers", "name"), None, ""])
    if report.n_chats:
        rows.append([Toned("kept conversations", "name"), None, ""])
    return Table(["file", "size", "sha256"], rows)


def _told(report: DataReport) -> list[tuple[str, AnyCell]]:
    how = "named" if report.format_named else "detected"
    columns = ", ".join(f"{role} = {name}" for role, name in report.columns.items())
    template = report.template + (f" ({report.template_why})" if report.template_why else "")
    return [
        ("format", f"{FORMAT_NAMES[report.format]} ({how})"),
        ("evidence", "; ".join(report.evidence)),
        ("columns", columns or None),
        ("data set", ", ".join(report.refs) or None),
        ("chat template", template),
        ("learned", _LEARNED[report.loss]),
        ("digest", report.sha256),
    ]


_LEARNED = {
    "assistant": "every answer", "last": "the last answer", "all": "every token",
    "completion": "all that is said after the last question",
}  # fmt: skip


def _counts(report: DataReport) -> list[tuple[str, AnyCell]]:
    share = report.n_targets / report.n_tokens if report.n_tokens else 0.0
    return [
        ("rows", Count(report.n_rows)),
        ("examples", Count(report.n_examples) if not report.n_pairs else None),
        ("pairs", Count(report.n_pairs) if report.n_pairs else None),
        ("tokens", Count(report.n_tokens)),
        ("tokens that count", f"{Count(report.n_targets)} ({Percent(share)})"),
        ("longest allowed", f"{report.max_length} tokens, then {report.overlong}"),
        ("cut off", _some(report.n_truncated)),
        ("too long", _some(report.n_too_long)),
        ("split", _some(report.n_split)),
        ("tokens lost", _some(report.lost_tokens)),
        ("duplicates", _some(report.duplicates_exact)),
        ("the same but for case and spaces", _some(report.duplicates_same)),
        ("duplicates left out", _some(report.duplicates_dropped)),
        ("empty", _some(report.n_empty)),
        ("cannot be used", _some(report.n_bad)),
    ]


def _some(count: int) -> AnyCell:
    return Toned(Count(count), "warn") if count else None


def _histogram(report: DataReport) -> Table:
    lengths = report.lengths
    assert lengths is not None
    most = max(b.n_examples for b in lengths.histogram)
    rows: list[list[AnyCell]] = []
    for b in lengths.histogram:
        bar = "█" * -(-b.n_examples * _BAR // most)
        over = b.first > report.max_length
        rows.append([f"{b.first} to {b.last}", Count(b.n_examples),
                     Toned(bar, "warn") if over else bar])  # fmt: skip
    spread = f"median {lengths.median}, 95 % up to {lengths.p95}, longest {lengths.longest}"
    return Table(["tokens", "examples", spread], rows)


def _problems(report: DataReport) -> Table:
    rows: list[list[AnyCell]] = [
        [Toned(p.kind, "warn"), Count(p.n_rows), p.reason, _rows(p.rows, p.n_rows)]
        for p in report.problems
    ]
    if report.n_empty:
        where = _rows(report.empty_rows, report.n_empty)
        rows.append([Toned("empty", "warn"), Count(report.n_empty), "nothing stands in it", where])
    return Table(["problem", "rows", "the first", "where"], rows)


def _rows(rows: tuple[str, ...], total: int) -> str:
    return ", ".join(rows) + (f" and {total - len(rows)} more" if total > len(rows) else "")


def _title(sample: Rendered) -> str:
    return f"As the model sees it: {sample.row}" + (f" ({sample.side})" if sample.side else "")


def _sample(sample: Rendered) -> Table:
    rows: list[list[AnyCell]] = [
        [Toned("yes", "good") if p.in_loss else Toned("no", "dim"), Count(p.n_tokens), _shown(p)]
        for p in sample.pieces
    ]
    return Table(["learned", "tokens", "text"], rows)


def _shown(piece: Piece) -> AnyCell:
    text = piece.text
    if len(text) > _LONGEST_TEXT:
        half = _LONGEST_TEXT // 2
        text = f"{text[:half]} [...] {text[-half:]}"
    visible = text.replace("\r", "␍").replace("\t", "→").replace("\n", "⏎")
    return Toned(visible, "good" if piece.in_loss else "dim")
