"""The gate: what fails, what does not, and what it writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from localllm.bench.comparing.gate import GateReport, GateRule, gate
from localllm.bench.comparing.judge import Loss
from localllm.bench.comparing.junit import junit_xml
from localllm.bench.comparing.rerun import InTime, Settled
from localllm.bench.comparing.summary import gate_markdown
from localllm.errors import EngineError, UsageProblem
from localllm.library.bench.case import BenchTest
from localllm.library.bench.record import BenchRow, DeviceMemory, Evidence
from tests.bench.runs import a_row, a_run, failed

SAME, SLOW = (100.0, 100.1, 99.9, 100.0), (90.0, 90.1, 89.9, 90.0)


class Answers:
    """A rerun that finds what it is told to."""

    def __init__(self, build: str | None, answer: Settled | Exception) -> None:
        self.base_build, self.answer = build, answer
        self.asked: list[str] = []

    def interleaved(self, base: BenchRow, new: BenchRow, limit: float, in_time: InTime) -> Settled:
        return self._say("interleaved")

    def rounds(self, base: BenchRow, new: BenchRow, limit: float, in_time: InTime) -> Settled:
        return self._say("rounds")

    def _say(self, what: str) -> Settled:
        self.asked.append(what)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


FINE = Settled("fine", Loss(0.0, -0.01, 0.01, 8), "interleaved")
WORSE = Settled("regression", Loss(0.1, 0.08, 0.12, 8), "interleaved")


def gated(base: Sequence[BenchRow], new: Sequence[BenchRow], **rule: float) -> GateReport:
    return gate(a_run(*base), a_run(*new), GateRule(**rule))  # type: ignore[arg-type]


def test_by_the_samples_alone() -> None:
    assert gated([a_row(rates=SAME)], [a_row(rates=SAME)]).ok
    report = gated([a_row(rates=SAME)], [a_row(rates=SLOW)])
    assert not report.ok
    assert report.problems[0].startswith("tg128: 10.0% slower")
    assert gated([a_row(rates=SAME)], [a_row(rates=SLOW)], max_regression=0.15).ok
    assert gated([a_row(rates=SLOW)], [a_row(rates=SAME)]).ok


def test_samples_that_differ_widely_prove_nothing() -> None:
    wide = (60.0, 140.0, 50.0, 130.0)
    (row,) = gated([a_row(rates=SAME)], [a_row(rates=wide)]).rows
    assert row.outcome == "passed" or row.outcome == "undecided"
    report = gate(
        a_run(a_row(rates=SAME)), a_run(a_row(rates=(60.0, 120.0, 50.0, 110.0))),
        GateRule(strict=True),
    )  # fmt: skip
    assert report.rows[0].outcome == "undecided"
    assert not report.ok


def test_a_disturbed_run_is_no_proof_of_slowness() -> None:
    busy = replace(a_row(rates=SLOW), evidence=Evidence(1.0, other_cores=1.3))
    (row,) = gated([a_row(rates=SAME)], [busy]).rows
    assert row.outcome == "undecided"
    assert "1.3 cores" in row.explained[0]


def test_failed_and_missing_rows_fail_and_new_ones_do_not() -> None:
    pp, tg = a_row(test=BenchTest(512, 0), rates=SAME), a_row(rates=SAME)
    report = gated([pp, tg], [failed(pp)])
    assert [row.outcome for row in report.rows] == ["failed", "missing"]
    assert len(report.problems) == 2
    assert gated([pp], [pp, tg]).ok
    assert gated([pp, failed(tg)], [pp, tg]).rows[1].outcome == "skipped"
    assert gated([pp, failed(tg)], [pp, failed(tg)]).ok


def test_a_baseline_without_figures_is_refused() -> None:
    nan = replace(a_row(), avg_ts=math.nan, samples_ts=(math.nan,))
    for row in (failed(a_row()), nan, replace(a_row(), avg_ts=0.0)):
        with pytest.raises(UsageProblem, match="no row with figures"):
            gated([row], [a_row()])


def test_memory_is_judged_where_it_is_asked_for() -> None:
    grown = replace(a_row(rates=SAME), memory=(DeviceMemory("CPU", 0, 9 << 29, 0, 0, 0),))
    base = [a_row(rates=SAME)]  # 4 GiB; now 4.5
    assert gated(base, [grown]).ok
    assert gated(base, [grown], max_memory_growth=0.13).ok
    report = gated(base, [grown], max_memory_growth=0.12)
    assert report.problems == ("tg128: takes 12.5% more memory, 12.0% is allowed",)
    assert "**memory**" in gate_markdown([report])


def test_another_install_is_always_measured_in_turn() -> None:
    again = Answers("another install", WORSE)
    base, new = a_run(a_row(rates=SAME)), a_run(a_row(rates=SAME))
    report = gate(base, new, GateRule(), again)
    assert again.asked == ["interleaved"]
    assert not report.ok  # though the stored samples are equal


def test_this_build_runs_the_baseline_again_where_something_differs() -> None:
    base, new = a_run(a_row(n_threads=2, rates=SAME)), a_run(a_row(n_threads=1, rates=SLOW))
    again = Answers("this build", WORSE)
    report = gate(base, new, GateRule(), again)
    assert again.asked == ["interleaved"]
    assert report.rows[0].changed == ("t=2 -> 1",)


def test_the_same_under_the_same_build_is_measured_in_rounds_when_in_doubt() -> None:
    """Run against itself it could only pass: a machine that got slower would never show."""
    again = Answers("this build", WORSE)
    gate(a_run(a_row(rates=SAME)), a_run(a_row(rates=SLOW)), GateRule(), again)
    assert again.asked == ["rounds"]
    quiet = Answers("this build", WORSE)
    assert gate(a_run(a_row(rates=SAME)), a_run(a_row(rates=SAME)), GateRule(), quiet).ok
    assert quiet.asked == []  # no doubt


def test_what_cannot_be_measured_again_is_judged_by_its_samples() -> None:
    again = Answers("another install", EngineError("out of memory"))
    report = gate(a_run(a_row(rates=SAME)), a_run(a_row(rates=SLOW)), GateRule(), again)
    assert not report.ok
    assert report.rows[0].explained[0] == "could not be measured again: out of memory"


def test_what_else_changed_is_told_and_excuses_nothing() -> None:
    old = replace(
        a_row(rates=SAME), peak_bandwidth_bytes_s=20e9, peak_basis="measured",
        evidence=Evidence(1.0, mean_clock_hz=3_000_000_000),
    )  # fmt: skip
    now = replace(
        a_row(rates=SLOW), peak_bandwidth_bytes_s=17e9, peak_basis="measured",
        evidence=Evidence(1.0, mean_clock_hz=2_700_000_000),
    )  # fmt: skip
    report = gated([old], [now])
    assert not report.ok
    assert report.rows[0].explained == ("measured memory bandwidth -15.0%", "mean clock -10.0%")


def test_changed_versions_are_remarked() -> None:
    new = a_run(versions={"localllm": "0.1.0", "llama.cpp": "fffffff"})
    assert gate(a_run(), new, GateRule()).remarks == ("llama.cpp 0c1e570 -> fffffff",)


def test_junit_is_what_ci_systems_read() -> None:
    pp = a_row(test=BenchTest(512, 0), rates=SAME)
    tg, deep = a_row(rates=SAME), a_row(test=BenchTest(0, 8, 64), rates=SAME)
    report = gated(
        [pp, tg, failed(deep)], [replace(pp, samples_ns=(10**9,)), a_row(rates=SLOW), deep]
    )
    suite = ElementTree.fromstring(junit_xml([replace(report, model="a<b>&\x00\u0007")]))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    cases = {case.get("name"): case for case in suite}
    assert cases["pp512"].find("failure") is None
    assert cases["pp512"].get("time") == "1.000"
    failure = cases["tg128"].find("failure")
    assert failure is not None and "10.0% slower" in str(failure.get("message"))
    assert cases["tg8 @ d64"].find("skipped") is not None


def test_the_summary_is_a_table_that_github_draws() -> None:
    report = gated([a_row(rates=SAME)], [a_row(rates=SLOW)])
    text = gate_markdown([replace(report, model="a|b\n# c")])
    assert text.startswith("### Benchmark gate failed: a\\|b # c\n")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 3 and len({line.count("|") for line in table}) == 1
    assert "| **regression** |" in table[2]
    assert "Allowed: 5.0% slower" in text


@pytest.mark.parametrize("rule", [{"max_regression": 0.0}, {"max_regression": 1.0},
                                  {"max_memory_growth": -0.1}])  # fmt: skip
def test_rules_without_sense(rule: dict[str, float]) -> None:
    with pytest.raises(UsageProblem):
        GateRule(**rule)  # type: ignore[arg-type]
