"""Comma- and tab-separated tables with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from localllm.errors import DamagedFile, UsageProblem
from localllm.finetune.data.reading.jsonvalue import NOT_UTF8
from localllm.finetune.data.reading.lines import MAX_LINE, beginning
from localllm.finetune.data.reading.packed import opened, suffix_of
from localllm.finetune.data.rows import BadRow, RawRow, RowAt

_DELIMITERS = ",;\t|"
_UNDECODED = "".join(map(chr, range(0xDC80, 0xDD00)))  # what surrogateescape makes of bad bytes


def read_table(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    """Rows of `path` under the names of its header; a row is told by the line it begins in.

    Raises DamagedFile (quotes that never close, a line of no end), UsageProblem for a header
    that names no columns, or one twice.
    """
    # a document can be far longer than the limit of 128 KiB
    csv.field_size_limit(min(MAX_LINE, 2**31 - 1))
    with opened(path) as file:
        feed = _Feed(file, path)
        first = next(feed, "")
        delimiter = "\t" if suffix_of(path) == ".tsv" else _delimiter(first)
        table = csv.reader(_again(first, feed), delimiter=delimiter, strict=True)
        try:
            header = _header(next(table, []), path)
            begins = table.line_num + 1
            for fields in table:
                if fields:
                    yield _row(header, fields, RowAt(name, begins))
                begins = table.line_num + 1
        except csv.Error as error:
            raise DamagedFile(f"{path}, line {feed.number}: {error}") from None


class _Feed(Iterator[str]):
    """Lines with their ends; bytes that are no UTF-8 stay, marked, until their row is known."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path, self.number = file, path, 0

    def __next__(self) -> str:
        raw = self._file.readline(MAX_LINE + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        if self.number == 1:
            raw = beginning(raw, self._path)
        if len(raw) > MAX_LINE:
            raise DamagedFile(f"{self._path}, line {self.number}: longer than {MAX_LINE} bytes")
        return raw.decode("utf-8", "surrogateescape")


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _delimiter(header: str) -> str:
    counts = [header.count(mark) for mark in _DELIMITERS]
    return _DELIMITERS[counts.index(max(counts))]


def _header(fields: Sequence[str], path: Path) -> Sequence[str]:
    names = [field.strip() for field in fields]
    if not any(names) or any(mark in _UNDECODED for name in names for mark in name):
        raise UsageProblem(f"{path} has no header line that names its columns")
    twice = next((n for n in names if n and names.count(n) > 1), None)
    if twice is not None:
        raise UsageProblem(f"{path} has two columns called {twice!r}")
    return names


def _row(header: Sequence[str], fields: Sequence[str], at: RowAt) -> RawRow | BadRow:
    if len(fields) != len(header):
        reason = f"{len(fields)} fields under {len(header)} columns"
        return BadRow("another number of fields", reason, at)
    for value in fields:
        if not value.isascii() and any(mark in value for mark in _UNDECODED):
            return BadRow(NOT_UTF8, "a field is no UTF-8", at)
    return RawRow({k: v for k, v in zip(header, fields, strict=True) if k}, at)
