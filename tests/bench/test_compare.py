"""Two runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from localllm.bench.comparing.baseline import Found
from localllm.bench.comparing.compare import Compared, compare
from localllm.errors import UsageProblem
from localllm.library.bench.case import BenchTest
from localllm.library.bench.record import BenchRun, DeviceMemory, Evidence
from tests.bench.runs import MACHINE, a_row, a_run, failed
from tests.conftest import Done

Cli = Callable[..., Done]
FAST, SLOW = (100.0, 101.0, 99.0, 100.0, 100.5), (90.0, 91.0, 89.0, 90.0, 90.5)


def compared(base: BenchRun, new: BenchRun, *across: str) -> Compared:
    (found,) = compare(Found("base", (base,)), Found("new", (new,)), across)
    return found


def verdicts(base: BenchRun, new: BenchRun) -> dict[str, str]:
    return {row.test: row.verdict for row in compared(base, new).rows}


def test_faster_slower_and_neither() -> None:
    old, now = a_run(a_row(rates=FAST)), a_run(a_row(rates=SLOW))
    assert verdicts(old, now) == {"tg128": "slower"}
    assert verdicts(now, old) == {"tg128": "faster"}
    assert verdicts(old, old) == {"tg128": "no difference seen"}
    (row,) = compared(old, now).rows
    assert row.ratio == pytest.approx(90.1 / 100.1)
    assert row.ratio_low is not None and row.ratio_high is not None
    assert row.ratio_low < 0.9 < row.ratio_high < 1


def test_rows_without_samples_have_no_verdict() -> None:
    bare = replace(a_row(), samples_ns=(), samples_ts=())
    assert verdicts(a_run(bare), a_run(a_row())) == {"tg128": "not known"}


def test_rows_of_one_side_are_named() -> None:
    pp, tg, deep = (a_row(test=BenchTest(*t)) for t in ((512, 0), (0, 128), (0, 128, 4096)))
    assert verdicts(a_run(pp, tg), a_run(tg, deep)) == {
        "pp512": "only in base", "tg128": "no difference seen", "tg128 @ d4096": "only in new",
    }  # fmt: skip


def test_failures_on_either_side() -> None:
    good, bad = a_row(), failed(a_row())
    assert verdicts(a_run(good), a_run(bad)) == {"tg128": "fails now"}
    assert verdicts(a_run(bad), a_run(good)) == {"tg128": "works now"}
    assert verdicts(a_run(bad), a_run(bad)) == {"tg128": "fails in both"}


def test_the_same_test_under_other_settings_is_compared_and_said() -> None:
    two, one = a_run(a_row(n_threads=2)), a_run(a_row(n_threads=1, rates=SLOW))
    (row,) = compared(two, one).rows
    assert (row.changed, row.verdict) == (("t=2 -> 1",), "slower")


def test_several_settings_are_matched_by_setting() -> None:
    sweep = [a_row(n_threads=n, rates=(n * 10.0, n * 10.1, n * 9.9)) for n in (1, 2, 4)]
    rows = compared(a_run(*sweep), a_run(*reversed(sweep))).rows
    assert [row.ratio for row in rows] == [1.0, 1.0, 1.0]
    rows = compared(a_run(*sweep), a_run(a_row(n_threads=8), a_row(n_threads=16))).rows
    assert [row.verdict for row in rows] == ["only in base"] * 3 + ["only in new"] * 2


def test_memory_and_energy() -> None:
    grown = replace(
        a_row(),
        memory=(DeviceMemory("CPU", 0, (4 << 30) + 1000, 0, 0, 0),),
        evidence=Evidence(1.0, joules_per_token=3.0, energy_basis="rapl"),
    )
    metered = replace(
        a_row(), evidence=Evidence(1.0, joules_per_token=2.0, energy_basis="rapl")
    )  # fmt: skip
    (row,) = compared(a_run(metered), a_run(grown)).rows
    assert (row.memory_bytes, row.joules_per_token_ratio) == (1000, 1.5)
    other = replace(metered, evidence=Evidence(1, joules_per_token=2.0, energy_basis="nvml"))
    assert compared(a_run(other), a_run(grown)).rows[0].joules_per_token_ratio is None


def test_other_machines_and_models_are_refused_unless_allowed() -> None:
    here = a_run()
    there = a_run(machine=replace(MACHINE, fingerprint="ffff", cpu="Another CPU"))
    tuned = a_run(sha256="cd" * 32)
    with pytest.raises(UsageProblem, match=r"different machines: Some CPU.*Another CPU"):
        compared(here, there)
    with pytest.raises(UsageProblem, match="different models"):
        compared(here, tuned, "machines")
    assert "different machines" in compared(here, there, "machines").remarks[0]
    assert compared(here, tuned, "models").remarks
    with pytest.raises(UsageProblem, match="none of machines, models"):
        compared(here, here, "builds")


def test_runs_without_a_machine_go_by_processor_and_size() -> None:
    plain = a_run(machine=None, sha256=None)
    assert compared(plain, plain).remarks == ()
    with pytest.raises(UsageProblem, match="machines"):
        compared(plain, a_run(a_row(cpu_info="Another"), machine=None, sha256=None))
    with pytest.raises(UsageProblem, match="models"):
        compared(plain, a_run(a_row(model_size=5), machine=None, sha256=None))


def test_many_models_are_paired_by_name() -> None:
    x, y, z = (a_run(a_row(m, sha256=d * 32)) for m, d in (("x", "01"), ("y", "02"), ("z", "03")))
    base, new = Found("a", (x, y)), Found("b", (y, z))
    (found,) = compare(base, new)
    assert found.new.model == "y"
    assert found.remarks == ("x is only in a", "z is only in b")
    renamed = replace(x, model="x2")  # the same weights under another name
    assert [c.new.model for c in compare(base, Found("b", (z, y, renamed)))] == ["x2", "y"]
    with pytest.raises(UsageProblem, match="no model in common"):
        compare(Found("a", base.runs), Found("b", (a_run(a_row("q", sha256="99" * 32)),)))


def test_the_command_prints_a_table_json_and_markdown(cli: Cli, tmp_path: Path) -> None:
    for name, rates in (("base", FAST), ("new", SLOW)):
        run = asdict(a_run(a_row("a|b", rates=rates)))
        document = {"schema": 1, "command": "bench", "ok": True, "data": [run]}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    files = (tmp_path / "base.json", tmp_path / "new.json")
    table = cli("bench", "compare", *files)
    assert table.exit_code == 0
    assert "slower" in table.out and "0.900" in table.out
    (found,) = cli("bench", "compare", *files, "--json").data
    assert found["rows"][0]["verdict"] == "slower"
    assert found["rows"][0]["ratio"] == pytest.approx(90.1 / 100.1)
    md = cli("bench", "compare", *files, "--md").out
    lines = [line for line in md.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "### a\\|b" in md
    assert cli("bench", "compare", files[0], tmp_path / "gone.json").exit_code == 3
