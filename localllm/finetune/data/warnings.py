"""What a reader of the report should hear before hours of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from localllm.finetune.data.counting import Counts
from localllm.finetune.data.dataset import Dataset
from localllm.finetune.data.dialect import Dialect
from localllm.finetune.data.report import DataReport, named
from localllm.finetune.data.rows import RowAt

_FEW = 50  # rows that teach a model hardly more than themselves


def warnings_of(
    report: DataReport, dialect: Dialect, dataset: Dataset, counts: Counts
) -> tuple[str, ...]:
    """Sentences, the gravest first."""
    found = (*_template(report, dialect, counts), *_rows(report), *_odd(report, dataset, counts))
    return tuple(found)


def _template(report: DataReport, dialect: Dialect, counts: Counts) -> Iterator[str]:
    chosen = dialect.chosen
    if report.format == "text":
        return
    if chosen.origin == "chosen":
        yield (
            f"{chosen.why}: the template {chosen.name} is used, and goes with the result "
            "(--chat-template chooses another)"
        )
    if counts.with_tools and not dialect.knows_tools:
        yield (
            f"{counts.with_tools} rows offer tools, which the chat template does not show: "
            "the model is trained without knowing of them, as chat would ask it"
        )
    if report.date is not None:
        yield f"the chat template writes the date into prompts: {report.date} is used"


def _rows(report: DataReport) -> Iterator[str]:
    n = report.n_examples or report.n_pairs
    if n == 1:
        yield "there is one example: nothing can be held back to judge by, it is learned by heart"
    elif n < _FEW and report.format != "text":
        yield f"{n} examples are few: a model tends to repeat them"
    if report.n_truncated:
        lost = f", {report.lost_targets} tokens that would have counted" * bool(report.lost_targets)
        yield (
            f"{report.n_truncated} rows are longer than {report.max_length} tokens and were cut off"
            f"{lost} (--max-length, --overlong split)"
        )
    if report.n_too_long:
        yield f"{report.n_too_long} rows are left out: too long for {report.max_length} tokens"
    if report.n_bad:
        first = report.problems[0]
        what = f"{first.n_rows}: {first.reason} ({first.rows[0]})"
        yield f"{report.n_bad} rows cannot be used; {what}"
    repeats = report.duplicates_exact + report.duplicates_same
    if repeats and not report.duplicates_dropped:
        yield f"{repeats} rows repeat earlier ones (--duplicates drop leaves them out)"


def _odd(report: DataReport, dataset: Dataset, counts: Counts) -> Iterator[str]:
    if counts.odd_marks:
        yield (
            f"{len(counts.odd_marks)} rows hold text that the vocabulary reads as control tokens "
            f"({_places(counts.odd_marks)})"
        )
    if dataset.left_out:
        left = ", ".join(f"{n} {suffix}" for suffix, n in sorted(dataset.left_out.items()))
        yield f"files that are no data are left out: {left}"
    if report.n_empty:
        yield f"{report.n_empty} rows are empty ({_where(report.empty_rows, report.n_empty)})"


def _places(places: Sequence[RowAt]) -> str:
    return _where(named(places[:3]), len(places))


def _where(rows: Sequence[str], total: int) -> str:
    return ", ".join(rows[:3]) + (", ..." if total > 3 else "")
