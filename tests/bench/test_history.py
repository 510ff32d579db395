"""bench history, show, export and import, from the command line."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from localllm.bench.showing.history import trends_of
from localllm.library.bench.record import BenchRun
from localllm.registry import Model, Registry
from tests.bench.runs import a_full_run, a_row, a_run, failed
from tests.conftest import arrival

THEIRS = Path(__file__).parent / "llama_bench"


@pytest.fixture
def tiny(registry: Registry, tiny_gguf: Path, tmp_path: Path) -> Model:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_gguf.read_bytes())
    return registry.add(arrival("tiny", path))


def keep(registry: Registry, model: Model, *runs: BenchRun) -> list[int]:
    return [registry.record(model, "bench", asdict(run)) for run in runs]


def test_nothing_yet(cli) -> None:
    done = cli("bench", "history")
    assert (done.exit_code, done.out) == (0, "")
    assert "localllm bench MODEL" in done.err
    assert cli("bench", "history", "none").exit_code == 3
    assert cli("bench", "export").exit_code == 2


def test_history_is_newest_first_with_a_trend(cli, registry: Registry, tiny: Model) -> None:
    day = 86400.0
    runs = [
        a_run(a_row(rates=(r - 1, r, r + 1)), started_at=n * day, tag="nightly")
        for n, r in enumerate((100.0, 103.0, 50.0))
    ]
    ids = keep(registry, tiny, runs[1], runs[0], runs[2])  # not in the order of time
    data = cli("bench", "history", "tiny", "--json").data
    assert [line["id"] for line in data["runs"]] == [ids[2], ids[0], ids[1]]
    (trend,) = data["trends"]
    assert trend["rates_ts"] == pytest.approx([100, 103, 50])
    assert trend["change"] == pytest.approx(50 / 103 - 1)
    assert trend["within_noise"] is False
    text = cli("bench", "history", "--limit", 1)
    assert "-51.5 %" in text.out and "2 older runs" in text.err
    assert "over time" in cli("bench", "history", "--chart").out


def test_other_settings_and_machines_are_other_trends() -> None:
    one = a_run(a_row())
    machine = replace(one.machine, fingerprint="other")  # type: ignore[type-var]
    runs = [one, a_run(a_row(n_threads=4)), a_run(a_row(), machine=machine), a_run(a_row())]
    assert sorted(len(t.ids) for t in trends_of(runs)) == [1, 1, 2]
    (trend,) = [t for t in trends_of(runs) if len(t.ids) == 2]
    assert (trend.change, trend.within_noise) == (0, True)


def test_runs_of_the_earlier_version_are_passed_over(cli, registry: Registry, tiny: Model) -> None:
    registry.record(tiny, "bench", {"rows": [{"test": "pp512", "avg_ts": 1.0}]})
    registry.record(tiny, "bench", {"schema": 99, "rows": []})
    registry.record(tiny, "bench", {"schema": 1, "rows": "broken"})
    keep(registry, tiny, a_run())
    done = cli("bench", "history", "--json")
    assert [skipped["id"] for skipped in done.data["skipped"]] == [3, 2, 1]
    assert len(done.data["runs"]) == 1
    assert "earlier version" in " ".join(done.json["warnings"])
    assert cli("bench", "show", 1).exit_code == 2
    assert cli("bench", "export").exit_code == 0


def test_show_has_everything(cli, registry: Registry, tiny: Model) -> None:
    (number,) = keep(registry, tiny, a_full_run())
    text = cli("bench", "show", number).out
    for word in ("bench-box", "does_not_fit", "61 °C", "CPU", "gap to batched", "first token p50",
                 "cold", "0c1e570", "others kept 1.4 cores busy"):  # fmt: skip
        assert word in text
    (shown,) = cli("bench", "show", number, "--json").data
    assert shown["serving"][0]["n_requests"] == 32
    assert cli("bench", "show", 77).exit_code == 3


def test_a_report_of_a_stored_run(cli, registry: Registry, tiny: Model, tmp_path: Path) -> None:
    keep(registry, tiny, a_full_run(started_at=1.0), a_full_run())
    page = tmp_path / "r.html"
    assert cli("bench", "show", 2, "--report", page).exit_code == 0
    assert "History" in page.read_text(encoding="utf-8")
    assert cli("bench", "history", "--report", page, "--json").json["ok"] is True
    done = cli("bench", "show", 2, "--report", tmp_path / "none" / "r.html")
    assert (done.exit_code, done.err.count("\n")) == (3, 2)


@pytest.mark.parametrize("format", ["runs", "md", "csv", "json", "jsonl", "sql"])
def test_export(format: str, cli, registry: Registry, tiny: Model, tmp_path: Path) -> None:
    keep(registry, tiny, a_full_run(tag="x"), a_run(a_row(rates=(5.0, 6.0)), tag="y"))
    out = tmp_path / f"out.{format}"
    to_file = cli("bench", "export", "x", 2, "-o", format, "--out", out, "--json").data
    printed = cli("bench", "export", "x", 2, "-o", format)
    assert out.read_text(encoding="utf-8") == printed.out
    lost = 1 if format == "csv" else 0
    assert to_file == {"path": str(out), "format": format, "runs": 2, "rows": 6 - lost,
                       "left_out": lost}  # fmt: skip
    assert ("left out" in printed.err) == bool(lost)


def test_export_says_what_it_does_not_know(cli, registry: Registry, tiny: Model) -> None:
    keep(registry, tiny, a_run())
    assert cli("bench", "export", "nope").exit_code == 3
    assert cli("bench", "export", "-o", "xml").exit_code == 2


def test_what_was_exported_comes_back(cli, registry: Registry, tiny: Model, tmp_path: Path) -> None:
    keep(registry, tiny, a_full_run())
    document = tmp_path / "all.json"
    document.write_text(cli("bench", "export", "--json").out, encoding="utf-8")
    (known,) = cli("bench", "import", document, "--json").data
    assert (known["id"], known["is_new"]) == (1, False)
    elsewhere = Registry(tmp_path / "elsewhere")
    from localllm.bench.files.importing import import_runs
    from localllm.bench.showing.stored import stored_runs

    import_runs([document], elsewhere)
    (run,) = stored_runs(elsewhere).runs
    assert replace(run, id=None) == a_full_run()


# --- import -----------------------------------------------------------------------------------


def test_import_once_whatever_the_format(cli, registry: Registry, tiny: Model) -> None:
    first = cli("bench", "import", THEIRS / "beside.csv", "--tag", "theirs", "--json")
    assert first.exit_code == 0
    (run,) = first.data
    assert (run["model"], run["matched"], run["is_new"], run["rows"]) == (
        "org/tiny", "name and size", True, 4
    )  # fmt: skip
    again = cli("bench", "import", THEIRS / "beside_csv.json", THEIRS / "beside.csv", "--json")
    assert [(one["id"], one["is_new"]) for one in again.data] == [(run["id"], False)] * 2
    (kept,) = registry.measurements(tiny, "bench")
    assert (kept.data["source"], kept.data["tag"]) == ("llama-bench", "theirs")
    shown = cli("bench", "show", "theirs")
    assert "llama-bench" in shown.out and "pp8 @ d16" in shown.out


def test_import_without_the_model(cli, registry: Registry) -> None:
    (run,) = cli("bench", "import", THEIRS / "beside.sql", "--json").data
    assert (run["model"], run["matched"]) == ("tiny", None)
    assert cli("bench", "history", "tiny", "--json").data["runs"][0]["rates_ts"]["tg4"] > 0


def test_another_model_of_that_name_is_not_taken(cli, registry: Registry, tmp_path: Path) -> None:
    from tests.support.tiny_models import tiny_llama

    other = tiny_llama(tmp_path / "tiny.gguf", n_layer=4)
    registry.add(arrival("tiny", other))
    (run,) = cli("bench", "import", THEIRS / "beside.csv", "--json").data
    assert (run["model"], run["matched"]) == ("tiny (imported)", None)
    (told,) = cli("bench", "import", THEIRS / "beside.sql", "--model", "tiny", "--json").data
    assert (told["model"], told["matched"]) == ("org/tiny", "as told")
    assert cli("bench", "import", THEIRS / "beside.sql", "--model", "none").exit_code == 3


def test_a_bad_file_keeps_nothing(cli, registry: Registry, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('[{"n_prompt": "x", "n_gen": 1}]')
    done = cli("bench", "import", THEIRS / "beside.csv", bad)
    assert (done.exit_code, done.out) == (7, "")
    assert registry.measurements_of_kind("bench") == ()


def test_a_cut_file_is_said(cli, tmp_path: Path) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text((THEIRS / "beside_md.json").read_text()[:-400])
    done = cli("bench", "import", cut, "--json")
    assert done.data[0]["complete"] is False and done.data[0]["rows"] == 3
    assert "ends in the middle" in done.json["warnings"][0]


def test_rows_that_failed_are_imported_too(cli, registry: Registry, tmp_path: Path) -> None:
    from localllm.bench.files.writing import write_rows

    rows = tmp_path / "rows.jsonl"
    rows.write_text(write_rows([a_row(), failed(a_row())], "jsonl"))
    (one, two) = cli("bench", "import", rows, "--json").data
    assert (one["rows"], two["rows"]) == (1, 1)
    table = cli("bench", "export", "-o", "json").out
    assert [row["failure"] is None for row in json.loads(table)].count(False) == 1
    assert len(list(csv.DictReader(io.StringIO(cli("bench", "export", "-o", "csv").out)))) == 1
