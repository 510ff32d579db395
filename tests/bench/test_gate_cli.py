"""bench gate from the command line, measuring a tiny model with the real llama.cpp."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from localllm.bench.comparing.quantities import seconds_of, share_of
from localllm.bench.comparing.side import Side, case_of
from localllm.errors import DamagedFile, EngineError, FileGone, UsageProblem
from localllm.library.bench.case import BenchTest, Case, Setup
from localllm.library.bench.restore import run_from
from localllm.registry import Model, Registry
from tests.bench.runs import a_row, failed
from tests.conftest import Done

Cli = Callable[..., Done]


@pytest.fixture
def base(cli: Cli, tiny_model: Model, registry: Registry) -> int:
    """A run of the tiny model, tagged "base". Its id."""
    done = cli("bench", "tiny", "-p", "32", "-n", "8", "-r", "3", "--tag", "base", "--json")
    assert done.exit_code == 0, done
    return registry.measurements_of_kind("bench")[0].id


def as_if(registry: Registry, number: int, rates: tuple[float, ...]) -> None:
    """Rewrite a run as if these had been its rates, so that no test hangs on this machine's."""
    kept = registry.measurement(number)
    assert kept is not None
    run = run_from(kept.data, origin="test")
    rows = tuple(
        replace(
            row,
            avg_ts=rates[0],
            samples_ts=rates,
            evidence=None,
            samples_ns=tuple(int(1e9 * (row.n_prompt + row.n_gen) / r) for r in rates),
        )
        for row in run.rows
    )
    registry.revise(number, asdict(replace(run, rows=rows)))


def test_a_model_against_an_easy_baseline_passes(
    cli: Cli, base: int, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if(registry, base, (1e-4, 1.01e-4, 0.99e-4, 1e-4, 1e-4, 1e-4))
    step = tmp_path / "step.md"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    done = cli("bench", "gate", "tiny", "--baseline", "base", "-r", "5", "--tag", "now",
               "--budget", "1s", "--junit", tmp_path / "j.xml", "--summary", tmp_path / "s.md",
               "--json")  # fmt: skip
    assert done.exit_code == 0, done
    (report,) = done.data
    assert [row["test"] for row in report["rows"]] == ["pp32", "tg8"]
    assert all(row["outcome"] == "passed" and row["loss"]["share"] < -1 for row in report["rows"])
    suite = ElementTree.fromstring((tmp_path / "j.xml").read_text())[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")
    assert step.read_text() == "before\n" + (tmp_path / "s.md").read_text()
    newest = registry.measurements_of_kind("bench")[0]  # what was measured is kept
    assert (newest.id, newest.data["tag"]) == (report["new"]["id"], "now")


def test_a_slower_run_fails_and_says_so_everywhere(
    cli: Cli, base: int, registry: Registry, tmp_path: Path
) -> None:
    as_if(registry, base, (100.0, 100.2, 99.8, 100.1, 99.9))
    kept = registry.measurement(base)
    assert kept is not None
    slow = registry.record(registry.models()[0], "bench", {**kept.data, "tag": "slow"})
    as_if(registry, slow, (90.0, 90.2, 89.8, 90.1, 89.9))
    args = ("bench", "gate", "--baseline", base, "--run", "slow")
    done = cli(*args, "--junit", tmp_path / "j.xml", "--json")
    assert done.exit_code == 5, done
    assert done.json["error"]["kind"] == "gate_failed"
    assert [row["outcome"] for row in done.data[0]["rows"]] == ["regression"] * 2
    assert 'failures="2"' in (tmp_path / "j.xml").read_text()
    told = cli(*args)
    assert (told.exit_code, told.err.splitlines()[-1][:6]) == (5, "error:")
    assert told.out.count("regression") == 2
    assert cli(*args, "--max-regression", "12%").exit_code == 0
    assert cli("bench", "gate", "--baseline", "slow", "--run", base).exit_code == 0


def test_two_installs_are_measured_in_turn(cli: Cli, base: int, registry: Registry) -> None:
    done = cli("bench", "gate", "tiny", "--baseline", base, "--baseline-python", sys.executable,
               "-r", "2", "--json")  # fmt: skip
    assert done.exit_code in (0, 5), done  # samples of a tiny model are mostly noise
    (report,) = done.data
    assert [row["basis"] for row in report["rows"]] == ["interleaved"] * 2
    assert all(row["loss"]["n"] >= 8 for row in report["rows"])
    assert report["base_build"] == "another install"


def test_other_threads_run_the_baseline_again_in_turn(cli: Cli, base: int) -> None:
    done = cli("bench", "gate", "tiny", "--baseline", base, "--threads", "1", "-r", "2", "--json")
    assert done.exit_code in (0, 5), done
    (report,) = done.data
    old = [row["base"]["n_threads"] for row in report["rows"]]
    assert [row["new"]["n_threads"] for row in report["rows"]] == [1, 1]
    if set(old) != {1}:
        assert [row["basis"] for row in report["rows"]] == ["interleaved"] * 2
        assert report["base_build"] == "this build"


def test_a_failed_row_and_another_model_in_the_baseline(
    cli: Cli, base: int, registry: Registry, tmp_path: Path
) -> None:
    kept = registry.measurement(base)
    assert kept is not None
    run = run_from(kept.data, origin="test")
    for name, bad in (
        ("failed", replace(run, rows=tuple(failed(row) for row in run.rows))),
        ("other", replace(run, sha256="00" * 32)),
        ("elsewhere", replace(run, machine=replace(run.machine, fingerprint="x", cpu="Z80"))),  # type: ignore[type-var]
        ("schema", replace(run, schema=99)),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(asdict(bad)))
        done = cli("bench", "gate", "tiny", "--baseline", path, "-r", "2")
        assert done.exit_code == 2, (name, done)
        assert done.err.startswith("error: ") and len(done.err.splitlines()) <= 2
    assert len(registry.measurements_of_kind("bench")) == 1  # refused before measuring


BAD: tuple[tuple[tuple[str, ...], int], ...] = (
    ((), 2),
    (("--baseline", "nothing"), 3),
    (("--baseline", "gone.json"), 3),
    (("--baseline", "base", "--max-regression", "5"), 2),
    (("--baseline", "base", "--max-regression", "x"), 2),
    (("--baseline", "base", "--budget", "soon"), 2),
    (("--baseline", "base", "--junit", "no/such/folder/x.xml"), 3),
    (("--baseline", "base", "--summary", "."), 2),
    (("--baseline", "base", "--run", "base", "--threads", "1"), 2),
    (("nobody", "--baseline", "base"), 3),
    (("--baseline", "base", "--across", "time"), 2),
)


def test_bad_requests(cli: Cli, base: int) -> None:
    for args, code in BAD:
        done = cli("bench", "gate", *args)
        assert done.exit_code == code, (args, done)
        assert done.out == "" and done.err.startswith("error: "), (args, done)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_cannot_be_written_does_not_hide_the_verdict(
    cli: Cli, base: int, tmp_path: Path
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    done = cli("bench", "gate", "--baseline", "base", "--run", "base", "--junit", folder / "j.xml")
    assert done.exit_code == 1
    assert "passed" in done.out


# --- the sides --------------------------------------------------------------------------


def test_a_side_measures_what_it_is_told(tiny_gguf: Path) -> None:
    with Side(tiny_gguf) as side:
        side.open(Case(Setup(n_threads=1), BenchTest(16, 0)))
        assert side.versions["n_threads"] == 1
        assert side.sample() > 0
        side.open(Case(Setup(n_threads=2), BenchTest(0, 4, 8)))
        taken = side.round(3)
        assert len(taken.samples_ns) == 3 and min(taken.samples_ns) > 0


def test_a_side_says_what_is_wrong(tmp_path: Path, tiny_gguf: Path) -> None:
    case = Case(Setup(), BenchTest(16, 0))
    with Side(tmp_path / "gone.gguf") as side, pytest.raises(FileGone):
        side.open(case)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes()[:3000])
    with Side(broken) as side, pytest.raises(DamagedFile):
        side.open(case)
    with Side(tiny_gguf) as side:
        side._process.kill()
        with pytest.raises(EngineError):
            side.open(case)


def test_a_python_without_localllm_or_none_at_all(tmp_path: Path, tiny_gguf: Path) -> None:
    with pytest.raises(UsageProblem, match="cannot be run"):
        Side(tiny_gguf, tmp_path / "nopython")
    bare = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")]
    assert os.spawnv(os.P_WAIT, sys.executable, bare) == 0
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with Side(tiny_gguf, python) as side, pytest.raises(UsageProblem, match="has no localllm"):
        side.open(Case(Setup(), BenchTest(16, 0)))


def test_a_row_is_measured_again_as_it_was() -> None:
    row = a_row(test=BenchTest(512, 128, 64), n_gpu_layers=7, type_k="q8_0", flash_attn=1,
                tensor_split="0.25/0.75", split_mode="row", no_kv_offload=True)  # fmt: skip
    case = case_of(row)
    assert case.test == BenchTest(512, 128, 64)
    assert (case.setup.n_gpu_layers, case.setup.type_k, case.setup.flash_attn) == (7, "q8_0", "on")
    assert case.setup.tensor_split == (0.25, 0.75)
    assert (case.setup.split_mode, case.setup.no_kv_offload) == ("row", True)
    assert case_of(replace(row, tensor_split="0.00")).setup.tensor_split == ()


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("2.5 %", 0.025)])
def test_shares(text: str, share: float) -> None:
    assert share_of(text, "--x") == pytest.approx(share)


@pytest.mark.parametrize("text", ["5", "-5%", "", "%", "nan", "five"])
def test_no_shares(text: str) -> None:
    with pytest.raises(UsageProblem):
        share_of(text, "--x")


def test_times() -> None:
    found = [seconds_of(t, "--budget") for t in ("90", "90s", "1.5m", "2h", "3 min")]
    assert found == [90.0, 90.0, 90.0, 7200.0, 180.0]
    for text in ("0", "-1s", "soon", "5d"):
        with pytest.raises(UsageProblem):
            seconds_of(text, "--budget")
