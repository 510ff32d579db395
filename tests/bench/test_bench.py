"""localllm bench: rows that add up, kept in the registry, shown in every form."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.library.bench.restore import run_from
from localllm.registry import Model, Registry
from tests.conftest import Done

Cli = Callable[..., Done]
SMALL = ("-p", "16", "-n", "4", "-r", "2")


def test_rows_are_kept_and_shown(cli: Cli, tiny_model: Model, registry: Registry) -> None:
    done = cli("bench", "tiny", "-p", "32", "-n", "8", "-pg", "16,4", "-r", "2", "--tag", "t1",
               "--json")  # fmt: skip
    assert done.exit_code == 0, done
    (run,) = done.data
    pp, tg, pg = run["rows"]
    assert [(r["n_prompt"], r["n_gen"]) for r in run["rows"]] == [(32, 0), (0, 8), (16, 4)]
    assert [r["test"] for r in run["rows"]] == ["pp32", "tg8", "pp16+tg4"]
    for row, n_tokens in ((pp, 32), (tg, 8), (pg, 20)):
        rates = [n_tokens * 1e9 / ns for ns in row["samples_ns"]]
        assert row["samples_ts"] == pytest.approx(rates)
        assert row["avg_ts"] == pytest.approx(statistics.mean(rates))
        assert row["stddev_ts"] == pytest.approx(statistics.stdev(rates))
        assert row["ci95_low_ts"] <= row["avg_ts"] <= row["ci95_high_ts"]
        assert row["failure"] is None
        assert row["sha256"] == tiny_model.weights[0].sha256
        assert row["model_size"] == tiny_model.size_bytes - header_bytes(tiny_model)
        (memory,) = row["memory"]
        assert memory["predicted_bytes"] == pytest.approx(memory["measured_bytes"], rel=0.01)
        assert row["evidence"]["measured_s"] > 0
    # only generation reads the weights once a token
    assert pp["bytes_per_token"] is None
    assert tg["bytes_per_token"] <= row["model_size"]
    assert tg["bandwidth_bytes_s"] == pytest.approx(tg["bytes_per_token"] * tg["avg_ts"])
    (kept,) = registry.measurements(tiny_model, "bench")
    assert kept.id == run["id"]
    stored = run_from(kept.data, origin="the registry")
    assert (stored.complete, stored.tag, len(stored.rows)) == (True, "t1", 3)
    assert stored.machine is not None
    assert stored.rows[0].samples_ns == tuple(pp["samples_ns"])
    assert cli("show", "tiny", "--json").data["measurements"][0]["id"] == kept.id


def header_bytes(model: Model) -> int:
    from localllm.formats.gguf import read_model

    header = read_model(model.path)
    return model.size_bytes - sum(t.size_bytes for t in header.tensors.values())


def test_several_models_and_a_loose_file(cli: Cli, tiny_model: Model, tiny_gguf: Path) -> None:
    done = cli("bench", "tiny", tiny_gguf, "-p", "0", "-n", "4", "-r", "1", "--json")
    assert [run["id"] is None for run in done.data] == [False, True]


def test_one_damaged_model_of_two(cli: Cli, tiny_model: Model, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(tiny_model.path.read_bytes()[:5000])
    done = cli("bench", bad, "tiny", *SMALL, "--json")
    assert done.exit_code == 7
    assert [run["model"] for run in done.data] == ["org/tiny"]
    assert done.json["error"]["kind"] == "damaged_file"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("-p", "0", "-n", "0"), 2), (("-r", "0"), 2), (("--kv", "q99"), 2), (("-p", "8-4"), 2),
        (("--kv", "f16", "-ctk", "f16"), 2), (("-o", "yaml"), 2), (("-o", "md", "--json"), 2),
        (("--until-stable", "often"), 2), (("--until-stable", "200%"), 2), (("--prio", "9"), 2),
        (("-fa", "off", "-ctv", "q8_0", "-n", "0"), 2), (("--require-gpu",), 4),
    ],
)  # fmt: skip
def test_bad_requests(cli: Cli, tiny_model: Model, args: tuple[str, ...], code: int) -> None:
    done = cli("bench", "tiny", *args)
    if args == ("--require-gpu",) and done.exit_code == 0:
        pytest.skip("this build has a GPU")
    assert done.exit_code == code
    assert "--json" in args or "error: " in done.err
    assert "internal" not in done.err


def test_resuming_wants_a_registered_model(cli: Cli, tiny_gguf: Path) -> None:
    done = cli("bench", tiny_gguf, *SMALL, "--resume")
    assert done.exit_code == 2
    assert "pull --in-place" in done.err


def test_llama_benchs_outputs(cli: Cli, tiny_model: Model) -> None:
    rows = json.loads(cli("bench", "tiny", "-p", "8", "-n", "4", "-r", "1", "-o", "json").out)
    assert [(r["n_prompt"], r["n_gen"]) for r in rows] == [(8, 0), (0, 4)]
    failing = ("-p", "8", "-n", "0", "-r", "1", "-fa", "off", "-ctv", "f16,q8_0")
    done = cli("bench", "tiny", *failing, "-o", "csv")
    assert [r["type_v"] for r in csv.DictReader(io.StringIO(done.out))] == ["f16"]
    assert "csv has no place for 1 row" in done.err


def test_what_is_beside_the_rows(
    cli: Cli, tiny_model: Model, registry: Registry, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    done = cli("bench", "tiny", *SMALL, "--latency", "--batched", "3", "--serving", "2", "--load",
               "--report", page, "--json")  # fmt: skip
    assert done.exit_code == 0, done
    (run,) = done.data
    (latency,) = run["latency"]
    assert (latency["n_prompt"], latency["n_gen"], latency["n_answers"]) == (16, 4, 2)
    assert latency["first_token"]["p50_s"] > 0
    assert [row["n_parallel"] for row in run["batched"]] == [1, 2, 3]
    assert all(row["failure"] is None for row in run["batched"])
    assert [row["n_parallel"] for row in run["serving"]] == [1, 2]
    assert all(isinstance(row["gap"], float) for row in run["serving"])
    assert len(run["load"]["warm_s"]) == 3
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    stored = registry.measurement(run["id"])
    assert stored is not None
    assert run_from(stored.data, origin="").latency


def test_the_table_says_why_rows_failed(cli: Cli, tiny_model: Model) -> None:
    done = cli("bench", "tiny", "-p", "8", "-n", "0", "-r", "1", "-fa", "off", "-ctv", "f16,q8_0",
               "--chart")  # fmt: skip
    assert done.exit_code == 0
    assert "✗ refused" in done.out
    assert "needs flash attention" in done.err
    assert "1 of 2 rows have no figures" in done.err


def test_until_stable_takes_more_samples(cli: Cli, tiny_model: Model) -> None:
    done = cli("bench", "tiny", "-p", "0", "-n", "1", "-r", "1", "--until-stable", "0.01%",
               "--budget", "0.3", "--no-warmup", "--json")  # fmt: skip
    (row,) = done.data[0]["rows"]
    assert len(row["samples_ns"]) > 1


def test_in_this_process_rows_are_the_same_but_for_time(cli: Cli, tiny_model: Model) -> None:
    args = ("bench", "tiny", "-p", "8", "-n", "0", "-r", "1", "--json")
    apart, here = (cli(*args, flag).data[0]["rows"][0] for flag in ("--isolate", "--no-isolate"))
    timed = {"test_time", "avg_ns", "avg_ts", "samples_ns", "samples_ts", "load_s", "evidence"}
    for row in (apart, here):
        for memory in row["memory"]:
            memory.pop("process_bytes")
    assert {k: v for k, v in apart.items() if k not in timed} == {
        k: v for k, v in here.items() if k not in timed
    }
