"""A JSON document: an array of rows, read a piece at a time, or an object that holds one."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from localllm.errors import DamagedFile, UsageProblem
from localllm.finetune.data.reading.jsonl import read_jsonl
from localllm.finetune.data.reading.jsonvalue import as_row, check_surrogates, decoder, parse
from localllm.finetune.data.reading.lines import MAX_LINE, beginning
from localllm.finetune.data.reading.packed import opened
from localllm.finetune.data.rows import BadRow, RawRow, RowAt, RowProblem

MAX_OBJECT = 256 * 2**20  # bytes of a document that is read whole
_BLOCK = 1 << 20
_SPACE = " \t\r\n"
# Where an object keeps its rows, the likeliest first.
_LISTS = ("data", "rows", "train", "examples", "conversations", "items", "instances", "records")


def read_json(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    """Rows of `path`: of an array, of the list in an object, of JSON lines under a wrong name, or
    the one row that the document is.

    Raises DamagedFile where the document breaks off or is no JSON from some place on, and
    UsageProblem for a shape that holds no rows.
    """
    with opened(path) as file:
        first = beginning(file.read(_BLOCK), path).lstrip()
    if first.startswith(b"["):
        yield from _array(path, name)
    elif _is_lines(first):
        yield from read_jsonl(path, name)
    else:
        yield from _object(path, name)


def _is_lines(first: bytes) -> bool:
    """Whether the first line is a whole object and another begins after it."""
    head, newline, rest = first.partition(b"\n")
    if not newline or not rest.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(head), dict)
    except (ValueError, RecursionError):
        return False


def _object(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    with opened(path) as file:
        raw = file.read(MAX_OBJECT + 1)
    if len(raw) > MAX_OBJECT:
        raise UsageProblem(
            f"{path} is one JSON object of more than {MAX_OBJECT >> 20} MiB",
            "write it as JSON lines",
        )
    try:
        value = parse(beginning(raw, path).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} is no UTF-8 text (byte {error.start + 1})") from None
    except RowProblem as problem:
        raise DamagedFile(f"{path}: {problem.reason}") from None
    for number, row in enumerate(_rows(value, path), start=1):
        at = RowAt(name, number, "row")
        try:
            yield RawRow(as_row(row), at)
        except RowProblem as problem:
            yield BadRow(problem.kind, problem.reason, at)


def _rows(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, dict):
        raise UsageProblem(f"{path} holds no rows but one value", "JSON lines, or an array of rows")
    lists = {key: found for key, found in value.items() if _holds_rows(found)}
    if "messages" in lists or ("conversations" in lists and len(value) > 1 and "id" in value):
        return [value]  # the document is one conversation
    for key in _LISTS:
        if key in lists and not _is_turns(lists[key]):
            return list(lists[key])
    if len(lists) == 1 and not _is_turns(found := next(iter(lists.values()))):
        return list(found)
    if value and all(isinstance(column, dict) for column in value.values()):
        raise UsageProblem(
            f"{path} holds columns, not rows (as pandas writes it without orient)",
            'DataFrame.to_json(path, orient="records", lines=True)',
        )
    return [value]


def _holds_rows(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(v, dict | list) for v in value)
    )


def _is_turns(rows: list[Any]) -> bool:
    """Whether these are the turns of one conversation."""
    keys = ({"role", "content"}, {"from", "value"})
    return all(isinstance(row, dict) and any(k <= set(row) for k in keys) for row in rows)


def _array(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    """Rows with the lines that they begin in; with their numbers where several begin in one line,
    as programs write arrays. Memory holds one row and a block."""
    with opened(path) as file:
        window = _Window(file, path)
        window.take("[")
        if window.peek() == "]":
            return
        scanner = decoder()
        number, shared = 0, False
        while True:
            number += 1
            row = _next(window, scanner, RowAt(name, window.line))
            mark = window.peek()
            if mark == ",":
                window.take(",")
                if window.peek() == "]":
                    raise window.broken("a comma before the end of the array")
                shared = shared or window.line == row.at.number
            elif mark != "]":
                raise window.broken("neither a comma nor the end of the array")
            yield replace(row, at=RowAt(name, number, "row")) if shared else row
            if mark == "]":
                return


def _next(window: _Window, scanner: json.JSONDecoder, at: RowAt) -> RawRow | BadRow:
    window.peek()  # past the space
    at = RowAt(at.file, window.line)
    while True:
        start = window.at
        try:
            value, end = scanner.raw_decode(window.text, start)
            if window.text.find("\\ud", start, end) + window.text.find("\\uD", start, end) > -2:
                check_surrogates(value)
            row: RawRow | BadRow = RawRow(as_row(value), at)
        except RowProblem as problem:
            row = BadRow(problem.kind, problem.reason, at)
            found = _end(window)
            if found is None:
                continue
            end = found
        except RecursionError:
            raise DamagedFile(f"{window.path}, line {window.line}: nested too deeply") from None
        except json.JSONDecodeError as error:
            if not _breaks_off(error, window) or not window.more():
                raise window.broken(error.msg) from None
            continue
        window.advance(end)
        return row


def _end(window: _Window) -> int | None:
    """Where the value ends that our rules refuse; None where more had to be read to tell."""
    try:
        return json.JSONDecoder().raw_decode(window.text, window.at)[1]
    except json.JSONDecodeError as error:
        if not _breaks_off(error, window) or not window.more():
            raise window.broken(error.msg) from None
        return None


def _breaks_off(error: json.JSONDecodeError, window: _Window) -> bool:
    """Whether more text may mend it: it is about the end of what was read."""
    return error.msg.startswith(("Unterminated", "Invalid \\")) or (
        error.pos >= len(window.text) - 16
    )


class _Window:
    """The part of a document that is being read: text from `at` on."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self.path = file, path
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.line = "", 0, 1
        self._first = True
        self._block = _BLOCK

    def more(self) -> bool:
        """Read on; False at the end. Raises DamagedFile for what is no UTF-8 or far too long."""
        if len(self.text) - self.at > MAX_LINE:
            raise DamagedFile(
                f"{self.path}, line {self.line}: a row is longer than {MAX_LINE} bytes"
            )
        raw = self._file.read(self._block)
        if self._first:
            raw, self._first = beginning(raw, self.path), False
        try:
            text = self._decode.decode(raw, final=not raw)
        except UnicodeDecodeError:
            raise DamagedFile(
                f"{self.path} is no UTF-8 text (after line {self.line})",
                "convert it to UTF-8 first",
            ) from None
        if not raw:
            return False
        # a row that does not fit is tried again with twice as much: linear in all
        self._block = min(self._block * 2, MAX_LINE) if self.at == 0 else _BLOCK
        self.text, self.at = self.text[self.at :] + text, 0
        return True

    def peek(self) -> str:
        """The next character that is no space. Raises DamagedFile at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.line += self.text[self.at] == "\n"
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                raise self.broken("it ends in the middle of its array")

    def take(self, mark: str) -> None:
        if self.peek() != mark:
            raise self.broken(f"not {mark!r}")
        self.at += 1

    def advance(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def broken(self, why: str) -> DamagedFile:
        return DamagedFile(f"{self.path}, line {self.line}: no JSON: {' '.join(why.split())[:120]}")
