"""The report of one pass over the rows."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace

import numpy as np

from localllm.finetune.data.dataset import Dataset
from localllm.finetune.data.dialect import Dialect
from localllm.finetune.data.digests import Fingerprints, group_of
from localllm.finetune.data.report import (
    NAMED,
    DataReport,
    Problems,
    Rendered,
    SourceFile,
    lengths_of,
    named,
)
from localllm.finetune.data.rows import RowAt
from localllm.finetune.data.samples import rendered
from localllm.finetune.data.spec import EncodeOptions
from localllm.finetune.data.store import Examples, Pairs, Tokens

_FEW_DOCUMENTS = 20  # of fewer, chunks are kept back to judge by, not documents


@dataclass
class Counts:
    """Of rows."""

    rows: int = 0
    empty: int = 0
    empty_at: list[RowAt] = field(default_factory=list)  # of the first ones
    truncated: int = 0
    too_long: int = 0
    split: int = 0
    dropped: int = 0
    lost_tokens: int = 0
    lost_targets: int = 0
    odd_marks: list[RowAt] = field(default_factory=list)
    with_tools: int = 0

    def add_empty(self, at: RowAt) -> None:
        self.empty += 1
        if len(self.empty_at) < NAMED:
            self.empty_at.append(at)


def by_chunk(tokens: Tokens, n_documents: int) -> Tokens:
    """With few documents each chunk is a group of its own, or there would be none to hold out."""
    if n_documents >= _FEW_DOCUMENTS:
        return tokens
    starts = tokens.starts
    groups = [
        group_of(tokens.ids[starts[i] : starts[i + 1]].tobytes()) for i in range(len(starts) - 1)
    ]
    return replace(tokens, groups=np.array(groups, dtype=np.int64))


def report_of(
    rows: Examples | Pairs,
    data: Dataset,
    dialect: Dialect,
    options: EncodeOptions,
    limit: int,
    n: Counts,
    prints: Fingerprints,
    problems: Problems,
    full_lengths: array[int],
) -> DataReport:
    """`full_lengths` are of sequences before anything was cut off; chunks of text have none."""
    from localllm.finetune.data.warnings import warnings_of

    is_text = data.format == "text"
    lengths = rows.lengths if is_text else np.array(full_lengths, dtype=np.int64)
    report = DataReport(
        files=tuple(SourceFile(f.name, f.size_bytes, f.sha256) for f in data.files),
        refs=data.refs,
        n_chats=data.n_chats,
        n_votes=data.n_votes,
        sha256=prints.sha256,
        format=data.format,
        format_named=data.spec.format is not None,
        columns=dict(data.shape.columns) if data.shape else {},
        evidence=data.evidence,
        template="none" if is_text else dialect.chosen.name,
        template_origin="none" if is_text else dialect.chosen.origin,
        template_why="" if is_text else dialect.chosen.why,
        date=dialect.day.date().isoformat() if dialect.reads_date and not is_text else None,
        loss="all" if is_text else options.loss,
        max_length=limit,
        overlong="split" if is_text else options.overlong,
        n_rows=n.rows,
        n_examples=0 if isinstance(rows, Pairs) else len(rows),
        n_pairs=len(rows) if isinstance(rows, Pairs) else 0,
        n_tokens=rows.n_tokens,
        n_targets=rows.n_targets,
        n_truncated=n.truncated,
        n_too_long=n.too_long,
        n_split=n.split,
        lost_tokens=n.lost_tokens,
        lost_targets=n.lost_targets,
        n_empty=n.empty,
        empty_rows=named(n.empty_at),
        duplicates_exact=prints.n_exact,
        duplicates_same=prints.n_same,
        duplicates_dropped=n.dropped,
        n_bad=problems.n_rows,
        lengths=lengths_of(lengths),
        problems=problems.listed(),
        samples=_samples(rows, dialect),
        warnings=(),
    )
    return replace(report, warnings=warnings_of(report, dialect, data, n))


def _samples(rows: Examples | Pairs, dialect: Dialect) -> tuple[Rendered, ...]:
    tokenizer = dialect.tokenizer
    if isinstance(rows, Pairs):
        pair = rows[0]
        sides = (("chosen", pair.chosen), ("rejected", pair.rejected))
        return tuple(rendered(one, tokenizer, side) for side, one in sides)
    return (rendered(rows[0], tokenizer),)
