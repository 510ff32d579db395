"""Benchmark files read back: llama-bench's json, jsonl, csv and sql, and our own documents.

What a file is shows in its first characters, not in its name. Nothing in it is executed: of SQL
the INSERT statements are parsed. A file that ends in the middle (a benchmark that was killed)
gives the rows that are whole, in a run whose `complete` is False.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from localllm.bench.files.csvtext import table
from localllm.bench.files.grouping import grouped
from localllm.bench.files.rows import row_from
from localllm.bench.files.sqltext import inserted
from localllm.errors import DamagedFile, FileGone, UsageProblem
from localllm.library.bench.record import BenchRun
from localllm.library.bench.restore import run_from

LARGEST = 256 << 20  # bytes; a row takes about 2 KB
_NO_BENCHMARK = "bench import reads llama-bench's -o json, jsonl, csv and sql, and bench --json"


def read_runs(path: Path) -> tuple[BenchRun, ...]:
    """The runs in the file, oldest first as they stand there.

    llama-bench's rows make one run a model, build and machine, and a new one where a test comes
    again. Such runs have `id`, `machine` and `tag` None; rows from csv and sql have no samples.
    Raises FileGone, UsageProblem for a file that is no benchmark or of another schema,
    DamagedFile for one with rows that make no sense.
    """
    text = _text(path)
    start = text.lstrip()[:200].lower()
    if start.startswith(("[", "{")):
        return _json(text, path)
    if start.startswith(("create table", "insert into", "pragma", "begin", "--")):
        rows, whole = inserted(text, "llama_bench", str(path))
    elif "avg_ts" in text.partition("\n")[0]:
        rows, whole = table(text, str(path))
    else:
        raise UsageProblem(f"{path} is no benchmark file", _hint(start))
    return _runs(rows, whole, path)


def _hint(start: str) -> str:
    if start.startswith("|"):
        return "a Markdown table has no exact figures; run llama-bench with -o jsonl"
    if start.startswith("sqlite format 3"):
        return "sqlite3 FILE .dump > FILE.sql, then localllm bench import FILE.sql"
    return _NO_BENCHMARK


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise FileGone(f"there is no file {path}") from None
    except IsADirectoryError:
        raise UsageProblem(f"{path} is a folder", _NO_BENCHMARK) from None
    if len(data) > LARGEST:
        raise UsageProblem(f"{path} is larger than any benchmark", _NO_BENCHMARK)
    # Windows PowerShell writes UTF-16 where output is sent to a file.
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "backslashreplace")


def _runs(rows: list[Mapping[str, Any]], whole: bool, path: Path) -> tuple[BenchRun, ...]:
    if not rows:
        if not whole:
            raise DamagedFile(f"{path} ends within its first row")
        raise UsageProblem(f"{path} has no rows of a benchmark", _NO_BENCHMARK)
    made = [row_from(row, f"{path}, row {n}") for n, row in enumerate(rows, start=1)]
    runs = grouped(made, complete=whole)
    return tuple(run if run.started_at else replace(run, started_at=_written(path)) for run in runs)


def _written(path: Path) -> float:
    """When the file was: rows of old versions do not say when they were measured."""
    return path.stat().st_mtime


# --- json -------------------------------------------------------------------------------------


def _json(text: str, path: Path) -> tuple[BenchRun, ...]:
    try:
        values, whole = _values(text)
    except (ValueError, RecursionError) as e:
        raise DamagedFile(f"{path} is not the JSON of a benchmark: {e}") from None
    if len(values) == 1 and whole:
        value = values[0]
        if isinstance(value, dict) and "data" in value and "command" in value:
            return _document(value, path)
        if isinstance(value, dict) and "rows" in value:
            return (_run(value, path),)
        if isinstance(value, dict) and isinstance(value.get("runs"), list):  # bench export
            return _document({"command": "bench export", "data": value}, path)
    if values and all(isinstance(value, dict) and "rows" in value for value in values):
        return tuple(_run(value, path) for value in values)
    if not all(isinstance(value, dict) for value in values):
        raise UsageProblem(f"{path} is no benchmark file", _NO_BENCHMARK)
    if values and not any("n_prompt" in value for value in values):
        raise UsageProblem(f"{path} has no rows of a benchmark", _NO_BENCHMARK)
    return _runs(values, whole, path)


def _values(text: str) -> tuple[list[Any], bool]:
    """The members of an array, or the values one after another (jsonl), and whether the text
    was whole: it may end anywhere in the last of them."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    found: list[Any] = []
    at, end = _skip(text, 0, " \t\r\n"), len(text)
    in_array = text[at] == "["
    if in_array:
        at = _skip(text, at + 1, " \t\r\n")
    while at < end and not (in_array and text[at] == "]"):
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            if found and not _goes_on(text, at):
                return found, False
            raise
        found.append(value)
        at = _skip(text, at, " \t\r\n,")
    return found, at < end or not in_array


def _goes_on(text: str, at: int) -> bool:
    """Another object begins after the one that cannot be read at `at`: not just cut off."""
    return "\n{" in text[at + 1 :] or "\n  {" in text[at + 1 :]


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no figure")


def _document(document: Mapping[str, Any], path: Path) -> tuple[BenchRun, ...]:
    """One of ours: what `bench --json` or `bench export` printed."""
    data = document["data"]
    runs = data.get("runs", [data]) if isinstance(data, dict) else data
    if not isinstance(runs, list) or not all(isinstance(r, dict) and "rows" in r for r in runs):
        raise UsageProblem(f"{path} is a document of {document['command']!r}", _NO_BENCHMARK)
    return tuple(_run(run, path) for run in runs)


def _run(data: Mapping[str, Any], path: Path) -> BenchRun:
    return run_from(data, origin=str(path))
