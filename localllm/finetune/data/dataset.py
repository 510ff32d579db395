"""Data that was found: its files, its format, and its rows as often as they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import DamagedFile
from localllm.finetune.data.reading.folder import ROW_SUFFIXES
from localllm.finetune.data.reading.jsonfile import read_json
from localllm.finetune.data.reading.jsonl import read_jsonl
from localllm.finetune.data.reading.packed import opened, suffix_of
from localllm.finetune.data.reading.parquet import read_parquet
from localllm.finetune.data.reading.table import read_table
from localllm.finetune.data.reading.texts import read_text
from localllm.finetune.data.rows import BadRow, RawRow, Record, RowAt, RowProblem
from localllm.finetune.data.shapes.detect import Shape, mixed, shape_of
from localllm.finetune.data.shapes.read import read_row
from localllm.finetune.data.spec import DataSpec, Format

_READERS: dict[str, Callable[[Path, str], Iterator[RawRow | BadRow]]] = {
    ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".json": read_json, ".csv": read_table,
    ".tsv": read_table, ".parquet": read_parquet,
}  # fmt: skip
_NEEDED = {
    "chat": ("messages",), "sharegpt": ("messages",), "text": ("text",),
    "preference": ("chosen", "rejected"),
}  # fmt: skip


@dataclass(frozen=True)
class DataFile:
    """One file of the data as it lies here. `name` is what it is called where rows are told."""

    name: str
    path: Path
    size_bytes: int
    sha256: str
    kind: str  # the suffix of what it holds (".jsonl"), "" for a document

    @property
    def has_rows(self) -> bool:
        """Whether it holds rows; else it is one document."""
        return self.kind != ""

    def rows(self) -> Iterator[RawRow | BadRow]:
        """Its rows, of whatever format."""
        return _READERS[self.kind](self.path, self.name)


@dataclass(frozen=True)
class Dataset:
    """What `open_data` found. `shape` is None where there are no rows with columns; `evidence`
    says what the format was told by; `refs` are references pinned to what they meant; `left_out`
    counts files of a folder that are no data, by suffix."""

    spec: DataSpec
    files: tuple[DataFile, ...]
    format: Format
    shape: Shape | None
    evidence: tuple[str, ...]
    refs: tuple[str, ...]
    left_out: dict[str, int]
    chats: Callable[[], Iterator[Record | BadRow]] | None = None
    n_chats: int = 0
    n_votes: int = 0

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def records(self) -> Iterator[Record | BadRow]:
        """Every row, in order, as what is trained on or as what is wrong with it.

        Raises UsageProblem for a row of another format, and what reading raises.
        """
        for file in self.files:
            yield from self._of(file)
        if self.chats is not None:
            yield from self.chats()

    def _of(self, file: DataFile) -> Iterator[Record | BadRow]:
        if not file.has_rows:
            yield from read_text(file.path, file.name)
            return
        for row in file.rows():
            yield row if isinstance(row, BadRow) else self._read(row)

    def _read(self, row: RawRow) -> Record | BadRow:
        shape = self.shape
        assert shape is not None  # open_data has looked at the rows
        needed = _NEEDED.get(shape.format, ("prompt", "answer"))
        try:
            if any(shape.columns[role] not in row.value for role in needed):
                self._other(row, shape)
            return read_row(row, shape)
        except RowProblem as problem:
            return BadRow(problem.kind, problem.reason, row.at)

    def _other(self, row: RawRow, shape: Shape) -> None:
        """Raises for a row without the columns of `shape`."""
        other = shape_of(row.value, self.spec.columns, self.spec.format)
        if other is not None and other.format != shape.format:
            raise mixed([(shape, self._first()), (other, row.at)])
        columns = ", ".join(list(row.value)[:8]) or "none"
        raise RowProblem("other columns", f"its columns are {columns}")

    def _first(self) -> RowAt:
        return RowAt(self.files[0].name, 1)


def kind_of(path: Path) -> str:
    """What `path` holds, by its name, else by its beginning: JSON lines and Parquet are told under
    any name. Raises DamagedFile where it is no text, and what opening it raises."""
    suffix = suffix_of(path)
    if suffix in ROW_SUFFIXES:
        return suffix
    with opened(path) as file:
        head = file.read(_HEAD).removeprefix(b"\xef\xbb\xbf")
    if head.startswith(b"PAR1"):
        return ".parquet"
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            hint = "give texts, JSON lines, CSV or Parquet"
            raise DamagedFile(f"{path} is {what}, no text", hint)
    return ".jsonl" if _is_json_line(head) else ""


def _is_json_line(head: bytes) -> bool:
    line, newline, _ = head.lstrip().partition(b"\n")
    if not line.startswith(b"{") or (not newline and len(head) == _HEAD):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


_HEAD = 1 << 20
_MAGIC = {
    b"%PDF": "a PDF", b"PK\x03\x04": "a ZIP archive (or a Word document)", b"GGUF": "a model",
    b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture", b"SQLite format 3": "a database",
    b"\x7fELF": "a program",
}  # fmt: skip
