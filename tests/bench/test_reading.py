"""Files of llama-bench and our own, whole, old, cut off and hostile."""

from __future__ import annotations

import json
import random
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.bench.files.grouping import identity
from localllm.bench.files.reading import read_runs
from localllm.bench.files.writing import write_rows
from localllm.bench.history_cli import document
from localllm.errors import DamagedFile, FileGone, LocalLLMError, UsageProblem
from localllm.library.bench.case import BenchTest
from localllm.ui.sink import to_json
from tests.bench.runs import a_full_run, a_row, a_run, failed

THEIRS = Path(__file__).parent / "llama_bench"
TESTS = ["pp8", "tg4", "pp8 @ d16", "tg4 @ d16"]


@pytest.mark.parametrize("format", ["csv", "jsonl", "sql"])
def test_every_format_says_the_same(format: str) -> None:
    (there,) = read_runs(THEIRS / f"beside.{format}")
    (as_json,) = read_runs(THEIRS / f"beside_{format}.json")
    assert [row.test for row in there.rows] == TESTS
    for row, other in zip(there.rows, as_json.rows, strict=True):
        assert row.avg_ts == pytest.approx(other.avg_ts, rel=1e-6)
        assert (row.n_threads, row.model_size, row.avg_ns) == (2, 2673664, other.avg_ns)
    assert identity(there.rows) == identity(as_json.rows)
    assert (there.source, there.model, there.complete) == ("llama-bench", "tiny", True)


def test_rates_come_from_the_samples() -> None:
    raw = json.loads((THEIRS / "beside_md.json").read_text())
    (run,) = read_runs(THEIRS / "beside_md.json")
    for row, theirs in zip(run.rows, raw, strict=True):
        tokens = theirs["n_prompt"] + theirs["n_gen"]
        rates = [tokens / ns * 1e9 for ns in theirs["samples_ns"]]
        assert row.samples_ts == pytest.approx(rates)
        assert row.avg_ts == pytest.approx(theirs["avg_ts"], abs=1e-6)
        assert row.stddev_ts == pytest.approx(statistics.stdev(rates))
        assert row.ci95_low_ts is not None and row.ci95_low_ts < row.avg_ts


def test_options_that_rows_do_not_have_are_kept_as_the_command() -> None:
    (run,) = read_runs(THEIRS / "options.json")
    assert run.command == "llama-bench --poll 0 --load-mode none --embeddings 1"
    (plain,) = read_runs(THEIRS / "beside_md.json")
    assert plain.command == "llama-bench"


def test_a_file_of_2023() -> None:
    (run,) = read_runs(THEIRS / "2023.json")
    (row,) = run.rows
    assert (row.backends, row.n_gpu_layers, row.n_ubatch, row.flash_attn) == ("CUDA", 99, 512, 0)
    assert (row.test, run.model) == ("pp512", "ggml-model-q4_0")
    assert row.avg_ts == pytest.approx(2410.974041, abs=1e-6)


def test_a_test_that_comes_again_is_a_later_run(tmp_path: Path) -> None:
    nights = [a_row(test_time=f"2026-11-{day}T02:00:00Z") for day in (20, 21, 22)]
    other = a_row("other")
    path = tmp_path / "nights.jsonl"
    path.write_text(write_rows([nights[0], other, *nights[1:]], "jsonl"))
    runs = read_runs(path)
    assert [(run.model, len(run.rows)) for run in runs] == [
        ("tiny", 1), ("other", 1), ("tiny", 1), ("tiny", 1)
    ]  # fmt: skip
    assert runs[3].started_at - runs[2].started_at == 86400


# --- our own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["export", "document", "list", "run"])
def test_our_documents_come_back_whole(shape: str, tmp_path: Path) -> None:
    runs = (a_full_run(), a_full_run("other", tag="x"))
    if shape == "export":
        text = document(runs)
    elif shape == "document":
        text = json.dumps({"schema": 1, "command": "bench", "ok": True, "data": to_json(runs)})
    elif shape == "list":
        text = json.dumps([asdict(run) for run in runs])
    else:
        runs = runs[:1]
        text = json.dumps(asdict(runs[0]), indent=2)
    path = tmp_path / "ours.json"
    path.write_text(text, encoding="utf-8")
    assert read_runs(path) == runs


def test_our_rows_come_back_from_json(tmp_path: Path) -> None:
    rows = (a_row(), failed(a_row(test=BenchTest(512, 0))))
    path = tmp_path / "rows.json"
    path.write_text(write_rows(rows, "json"))
    (run,) = read_runs(path)
    assert run.source == "localllm"
    assert run.rows[1] == replace(rows[1], tensor_split="0.00")
    back = replace(run.rows[0], samples_ts=(), avg_ts=0, stddev_ts=0, tensor_split="")
    assert back == replace(rows[0], samples_ts=(), avg_ts=0, stddev_ts=0)
    assert run.rows[0].avg_ts == pytest.approx(100)


def test_a_run_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    path.write_text(document((a_run(schema=99),)))
    with pytest.raises(UsageProblem, match="schema 99"):
        read_runs(path)


def test_a_document_without_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('{"schema": 1, "command": "list", "ok": true, "data": [{"name": "x"}]}')
    with pytest.raises(UsageProblem, match="'list'"):
        read_runs(path)


# --- cut off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["beside_md.json", "beside.jsonl", "beside.csv", "beside.sql"])
def test_a_file_cut_anywhere_gives_its_whole_rows(name: str, tmp_path: Path) -> None:
    data = (THEIRS / name).read_bytes()
    path = tmp_path / name
    whole = read_runs(THEIRS / name)[0].rows
    seen = set()
    for at in random.Random(1).sample(range(1, len(data) - 3), 150):
        path.write_bytes(data[:at])
        try:
            runs = read_runs(path)
        except LocalLLMError as e:
            assert "\n" not in e.message
            continue
        rows = [row for run in runs for row in run.rows]
        assert rows == list(whole[: len(rows)]) or name == "beside.csv"
        if len(rows) < len(whole) and data[at - 1 : at] not in (b"\n", b"}", b";"):
            assert not all(run.complete for run in runs) or name == "beside.csv"
        seen.add(len(rows))
    assert len(seen) >= 3


def test_a_csv_cut_within_a_quoted_cell_loses_that_row(tmp_path: Path) -> None:
    data = (THEIRS / "beside.csv").read_text()
    path = tmp_path / "cut.csv"
    path.write_text(data.rstrip()[:-3])  # within the last figure of the last row
    (run,) = read_runs(path)
    assert (len(run.rows), run.complete) == (3, False)


# --- hostile ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", UsageProblem),
        ("hello", UsageProblem),
        ("| model | t/s |\n", UsageProblem),
        ("[]", UsageProblem),
        ("[1, 2]", UsageProblem),
        ('{"a": 1}', UsageProblem),
        ("{", DamagedFile),
        ("[" * 100_000, DamagedFile),
        ('[{"n_prompt": 8}]', DamagedFile),
        ('[{"n_prompt": 0, "n_gen": 0, "avg_ts": 1}]', DamagedFile),
        ('[{"n_prompt": -8, "n_gen": 0, "avg_ts": 1}]', DamagedFile),
        ('[{"n_prompt": 8, "n_gen": 0, "avg_ts": NaN}]', DamagedFile),
        ('[{"n_prompt": 8, "n_gen": 0, "avg_ts": 1e999}]', DamagedFile),
        ('[{"n_prompt": 8, "n_gen": 0, "avg_ts": 0}]', DamagedFile),
        ('[{"n_prompt": 8, "n_gen": 0, "avg_ts": -5}]', DamagedFile),
        ('[{"n_prompt": "eight", "n_gen": 0, "avg_ts": 1}]', DamagedFile),
        ('[{"n_prompt": {"a": 1}, "n_gen": 0, "avg_ts": 1}]', DamagedFile),
        ('[{"n_prompt": 8, "n_gen": 0, "avg_ts": 1, "cpu_info": ["x"]}]', DamagedFile),
        ('[{"n_prompt": 8, "n_gen": 0, "samples_ns": [0]}]', DamagedFile),
        ('[{"n_prompt": 8, "n_gen": 0, "samples_ns": "12"}]', DamagedFile),
        ('[{"n_prompt": 1e30, "n_gen": 0, "avg_ts": 1}]', DamagedFile),
        (f'[{{"n_prompt": {"9" * 5000}, "n_gen": 0, "avg_ts": 1}}]', DamagedFile),
        ("build_commit,avg_ts\n\"a\",\"b\",\"c\"\n", DamagedFile),
        ("n_prompt,n_gen,avg_ts\n8,0,x\n", DamagedFile),
        ("n_prompt,n_gen,avg_ts\n", UsageProblem),
        ("DROP TABLE llama_bench;", UsageProblem),
        ("CREATE TABLE llama_bench (a TEXT);", UsageProblem),
        ("INSERT INTO other (a) VALUES (1);", UsageProblem),
        ("INSERT INTO llama_bench (n_prompt, n_gen) VALUES ('8');", DamagedFile),
        ("INSERT INTO llama_bench (n_prompt) VALUES (load_extension('x'));", DamagedFile),
        ("INSERT INTO llama_bench SELECT * FROM other;", DamagedFile),
    ],
)  # fmt: skip
def test_what_is_no_benchmark_is_one_line(text: str, error: type, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error) as raised:
        read_runs(path)
    assert str(path) in raised.value.message
    assert len(raised.value.message) < 400 + len(str(path))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_never_escapes(data: st.DataObject) -> None:
    import tempfile

    name = data.draw(st.sampled_from(["beside_md.json", "beside.csv", "beside.sql"]))
    content = bytearray((THEIRS / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            runs = read_runs(path)
        except LocalLLMError:
            return
        assert all(row.avg_ts > 0 or row.failure for run in runs for row in run.rows)


def test_sql_is_parsed_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "made.db"
    sql = (THEIRS / "beside.sql").read_text()
    path = tmp_path / "evil.sql"
    path.write_text(f"ATTACH DATABASE '{target}' AS x; CREATE TABLE x.y (a TEXT);\n{sql}")
    with pytest.raises(UsageProblem):
        read_runs(path)
    path.write_text(f"-- dump\nATTACH DATABASE '{target}' AS x; CREATE TABLE x.y (a TEXT);\n{sql}")
    assert [row.test for row in read_runs(path)[0].rows] == TESTS
    assert not target.exists()


def test_a_dump_of_sqlite(tmp_path: Path) -> None:
    import sqlite3

    database = sqlite3.connect(":memory:")
    database.executescript((THEIRS / "beside.sql").read_text())
    path = tmp_path / "dump.sql"
    path.write_text("\n".join(database.iterdump()))
    assert [row.test for row in read_runs(path)[0].rows] == TESTS


def test_powershell_writes_utf16(tmp_path: Path) -> None:
    path = tmp_path / "ps.json"
    path.write_text((THEIRS / "beside_md.json").read_text(), encoding="utf-16")
    assert [row.test for row in read_runs(path)[0].rows] == TESTS


def test_places_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileGone):
        read_runs(tmp_path / "none.json")
    with pytest.raises(UsageProblem, match="folder"):
        read_runs(tmp_path)
