"""Rows in llama-bench's output formats: its fields first and as it prints them, ours after.

What fails has no figures, and no format may pass it off as a speed of 0:

- json and jsonl keep the row, `failure` says why, the four figures are null and the samples
  empty.
- md keeps it, with `-` for the rate and the reason in the last column.
- csv leaves it out: readers take an empty cell for 0.
- sql leaves it out of the table `llama_bench`, and keeps it in `localllm_bench`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from localllm.bench.files.fields import FIELDS, Field, text_of, value_of
from localllm.bench.files.markdown import markdown
from localllm.library.bench.record import BenchRow
from localllm.ui.sink import to_json

Format = Literal["md", "csv", "json", "jsonl", "sql"]
FORMATS: tuple[str, ...] = get_args(Format)

_THEIRS = {field.name for field in FIELDS} | {"samples_ns", "samples_ts"}
_EVIDENCE = (
    "measured_s", "mean_clock_hz", "min_clock_hz", "max_temperature_c", "throttled",
    "mean_power_w", "energy_j", "joules_per_token", "energy_basis", "own_cores", "other_cores",
    "noisy",
)  # fmt: skip
_OURS = (
    "model", "test", "sha256", "ci95_low_ts", "ci95_high_ts", "n_layers", "n_layers_offloaded",
    "load_s", "predicted_bytes", "measured_bytes", "bytes_per_token", "bandwidth_bytes_s",
    "peak_bandwidth_bytes_s", "peak_basis", "bandwidth_efficiency", "localllm_version",
)  # fmt: skip
_FLAT = (*_OURS, *_EVIDENCE)  # our columns in csv and sql
_SQL = {"text": "TEXT", "bool": "INTEGER", "int": "INTEGER", "float": "REAL"}


def write_rows(rows: Sequence[BenchRow], format: Format) -> str:
    """`rows` as one text that ends with a newline. How failed rows look: see the module."""
    if format == "md":
        return markdown(rows)
    if format == "csv":
        return _csv(rows)
    if format == "sql":
        return "".join(_sql(rows))
    if format == "jsonl":
        return "".join("{" + ", ".join(_members(row)) + "}\n" for row in rows)
    objects = ["  {\n    " + ",\n    ".join(_members(row)) + "\n  }" for row in rows]
    return "[\n" + ",\n".join(objects) + "\n]\n"


def left_out(rows: Sequence[BenchRow], format: Format) -> int:
    """How many of `rows` this format has no place for."""
    return sum(row.failure is not None for row in rows) if format == "csv" else 0


# --- json -------------------------------------------------------------------------------------


def _members(row: BenchRow) -> Iterator[str]:
    for field in FIELDS:
        yield f'"{field.name}": {_json_value(row, field)}'
    yield f'"samples_ns": [ {", ".join(str(ns) for ns in row.samples_ns)} ]'
    yield f'"samples_ts": [ {", ".join(f"{ts:g}" for ts in row.samples_ts)} ]'
    for name, value in to_json(row).items():
        if name not in _THEIRS:
            yield f'"{name}": {json.dumps(value, ensure_ascii=False)}'


def _json_value(row: BenchRow, field: Field) -> str:
    value = value_of(row, field)
    if field.kind == "float" and value is not None:
        return f"{value:.6f}"
    return json.dumps(value, ensure_ascii=False)


# --- csv --------------------------------------------------------------------------------------


def _csv(rows: Sequence[BenchRow]) -> str:
    """llama-bench quotes every value and no name."""
    out = io.StringIO()
    out.write(",".join([field.name for field in FIELDS] + list(_FLAT)) + "\n")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for row in rows:
        if row.failure is None:
            ours = ["" if v is None else str(v) for v in _flat(row).values()]
            writer.writerow([text_of(row, field) for field in FIELDS] + ours)
    return out.getvalue()


def _flat(row: BenchRow) -> dict[str, Any]:
    """Our figures one level deep; several words in one cell are joined by `; `."""
    values = {name: getattr(row, name) for name in _OURS}
    for name in _EVIDENCE:
        value = getattr(row.evidence, name) if row.evidence else None
        values[name] = "; ".join(value) if isinstance(value, tuple) else value
    return values


# --- sql --------------------------------------------------------------------------------------


def _sql(rows: Sequence[BenchRow]) -> Iterator[str]:
    """llama-bench's table is exactly llama-bench's, so that both can fill one database; ours
    has the rest, joined by `llama_bench.rowid = localllm_bench.llama_bench_rowid`."""
    yield _create("llama_bench", [f"{field.name} {_SQL[field.kind]}" for field in FIELDS])
    typed = [f"{name} {_sql_type(name)}" for name in (*_FLAT, "failure", "failure_message")]
    yield _create("localllm_bench", ["llama_bench_rowid INTEGER", *typed])
    for row in rows:
        rowid = "NULL"
        if row.failure is None:
            rowid = "last_insert_rowid()"
            yield _insert("llama_bench", {f.name: _literal(text_of(row, f)) for f in FIELDS})
        ours = {name: _literal(value) for name, value in _flat(row).items()}
        ours["failure"] = _literal(row.failure.kind if row.failure else None)
        ours["failure_message"] = _literal(row.failure.message if row.failure else None)
        yield _insert("localllm_bench", {"llama_bench_rowid": rowid, **ours})


def _create(table: str, columns: Sequence[str]) -> str:
    lines = ",\n".join(f"  {column}" for column in columns)
    return f"CREATE TABLE IF NOT EXISTS {table} (\n{lines}\n);\n\n"


def _insert(table: str, values: dict[str, str]) -> str:
    return f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())});\n"


def _sql_type(name: str) -> str:
    if name.endswith(("_bytes", "_hz", "n_layers", "n_layers_offloaded")):
        return "INTEGER"
    words = ("model", "test", "sha256", "peak_basis", "energy_basis", "localllm_version",
             "throttled", "noisy", "failure", "failure_message")  # fmt: skip
    return "TEXT" if name in words else "REAL"


def _literal(value: Any) -> str:
    """Quoted, as llama-bench quotes numbers too; a quote inside is doubled, which it forgets."""
    if value is None:
        return "NULL"
    return "'" + str(value).replace("'", "''").replace("\0", "") + "'"
