"""JSON lines: one row a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from localllm.finetune.data.reading.jsonvalue import NOT_UTF8, as_row, parse
from localllm.finetune.data.reading.lines import Line, lines
from localllm.finetune.data.rows import BadRow, RawRow, RowAt, RowProblem


def read_jsonl(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    """Rows of `path`, called `name` where they are told of. Empty lines are none."""
    for line in lines(path):
        if line.text is None or line.text.strip():
            yield _row(line, RowAt(name, line.number))


def _row(line: Line, at: RowAt) -> RawRow | BadRow:
    if line.text is None:
        return BadRow(NOT_UTF8 if "UTF-8" in line.problem else "too long", line.problem, at)
    try:
        return RawRow(as_row(parse(line.text)), at)
    except RowProblem as problem:
        return BadRow(problem.kind, problem.reason, at)
