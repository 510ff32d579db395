"""Our rows in llama-bench's formats: as it prints them, and readable by what reads its files."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from pathlib import Path

import pytest

from localllm.bench.files.reading import read_runs
from localllm.bench.files.writing import FORMATS, left_out, write_rows
from localllm.library.bench.case import BenchTest
from localllm.library.bench.record import BenchRow
from tests.bench.runs import a_row, failed

THEIRS = Path(__file__).parent / "llama_bench"


def recorded(name: str) -> tuple[BenchRow, ...]:
    """The rows of a JSON file that llama-bench wrote."""
    return tuple(row for run in read_runs(THEIRS / name) for row in run.rows)


def text(name: str) -> str:
    return (THEIRS / name).read_text(encoding="utf-8")


def test_csv_is_llama_benchs_and_ours_after() -> None:
    ours = write_rows(recorded("beside_csv.json"), "csv").splitlines()
    theirs = text("beside.csv").splitlines()
    assert len(ours) == len(theirs) == 5
    for mine, original in zip(ours, theirs, strict=True):
        assert mine.startswith(original + ",")


def test_jsonl_is_llama_benchs_and_ours_after() -> None:
    ours = write_rows(recorded("beside_jsonl.json"), "jsonl").splitlines()
    for mine, original in zip(ours, text("beside.jsonl").splitlines(), strict=True):
        known = original.removesuffix("]}").replace("],", "], ")  # it forgets one space
        assert mine.startswith(known)
        assert list(json.loads(mine))[: len(json.loads(original))] == list(json.loads(original))


def test_json_is_llama_benchs_and_ours_after() -> None:
    original = text("beside_md.json")
    ours = write_rows(recorded("beside_md.json"), "json").splitlines()
    for line in original.splitlines():
        assert line in ours or line + "," in ours
    assert ours[: original.splitlines().index('    "build_number": 0,')] == ["[", "  {",
        '    "build_commit": "unknown",']  # fmt: skip
    assert isinstance(json.loads("\n".join(ours)), list)


@pytest.mark.parametrize("name", ["beside", "settings"])
def test_md_is_llama_benchs_table(name: str) -> None:
    rows = recorded("settings.json" if name == "settings" else "beside_md.json")
    ours = write_rows(rows, "md").splitlines()
    original = text(f"{name}.md").splitlines()
    assert len(original) > 5
    for mine, theirs in zip(ours, original, strict=True):
        assert mine.startswith(theirs.removesuffix(" |"))


def test_sql_fills_the_table_that_llama_bench_made() -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(text("beside.sql"))
    database.executescript(write_rows(recorded("beside_sql.json"), "sql"))
    everything = database.execute("SELECT * FROM llama_bench").fetchall()
    assert len(everything) == 8
    assert everything[:4] == everything[4:]  # the same run, from its other output
    assert isinstance(everything[4][-2], float)
    joined = database.execute(
        "SELECT l.n_depth, o.test FROM llama_bench l"
        " JOIN localllm_bench o ON l.rowid = o.llama_bench_rowid"
    ).fetchall()
    assert joined == [(0, "pp8"), (0, "tg4"), (16, "pp8 @ d16"), (16, "tg4 @ d16")]


def test_a_failed_row_is_never_a_speed_of_zero() -> None:
    good = a_row()
    bad = failed(a_row(test=BenchTest(512, 0)), "it's | gone; DROP TABLE llama_bench")
    rows = [good, bad]
    (_, kept) = json.loads(write_rows(rows, "json"))
    assert kept["failure"]["kind"] == "does_not_fit"
    assert [kept[k] for k in ("avg_ns", "stddev_ns", "avg_ts", "stddev_ts")] == [None] * 4
    assert kept["samples_ns"] == kept["samples_ts"] == []
    assert json.loads(write_rows(rows, "jsonl").splitlines()[1]) == kept
    table = list(csv.DictReader(io.StringIO(write_rows(rows, "csv"))))
    assert [line["test"] for line in table] == ["tg128"]
    assert [left_out(rows, f) for f in ("csv", "json")] == [1, 0]  # type: ignore[arg-type]
    markdown = write_rows(rows, "md").splitlines()
    assert f"| {'-':>20} |" in markdown[3]
    assert "does_not_fit: it's \\" in markdown[3]
    database = sqlite3.connect(":memory:")
    database.executescript(write_rows(rows, "sql"))
    assert database.execute("SELECT avg_ts FROM llama_bench").fetchall() == [(100.0,)]
    assert database.execute(
        "SELECT llama_bench_rowid, test, failure_message FROM localllm_bench"
    ).fetchall() == [(1, "tg128", None), (None, "pp512", "it's | gone; DROP TABLE llama_bench")]


@pytest.mark.parametrize("format", FORMATS)
def test_names_of_any_characters(format: str) -> None:
    name = "a\"b'c\\d|e\n\x01日本\udc80</script>"
    written = write_rows([a_row(name, model_type=name)], format)  # type: ignore[arg-type]
    if format == "json":
        assert json.loads(written)[0]["model_type"] == name
    if format == "csv":
        (line,) = csv.DictReader(io.StringIO(written, newline=""))
        assert line["model_type"] == name
    if format == "md":
        assert len(written.splitlines()) == 5
    if format == "sql":
        database = sqlite3.connect(":memory:")
        database.executescript(written.encode("utf-8", "backslashreplace").decode())
        assert "\\udc80" in database.execute("SELECT model_type FROM llama_bench").fetchone()[0]


def test_nothing_is_still_a_document() -> None:
    assert json.loads(write_rows([], "json")) == []
    assert write_rows([], "jsonl") == ""
    assert write_rows([], "csv").startswith("build_commit,")


def test_the_evidence_is_flat_in_csv() -> None:
    (line,) = csv.DictReader(io.StringIO(write_rows([a_row()], "csv")))
    assert (line["mean_clock_hz"], line["max_temperature_c"]) == ("3100000000", "61.0")
    assert (line["predicted_bytes"], line["measured_bytes"]) == (str(5 << 30), str(4 << 30))
