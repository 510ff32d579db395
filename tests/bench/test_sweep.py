"""Sweeps that do not die: crashes, no memory, no time, a parent that is killed, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from localllm.errors import DamagedFile, DoesNotFit, EngineError, UsageProblem
from localllm.library.bench.bench import problem_of, sweep_of
from localllm.library.bench.case import BenchTest, Case, Setup
from localllm.library.bench.measuring.failures import death, failure_of
from localllm.library.bench.measuring.measure import Measured, Method, Order
from localllm.library.bench.measuring.workers import ChildWorker, HereWorker, RowFailed
from localllm.library.bench.record import BenchRun
from localllm.library.bench.restore import run_from
from localllm.library.bench.sweep import Sweep, SweepOptions, plan_options
from localllm.placement import settled_plan, this_machine
from localllm.registry import Model, Registry
from localllm.ui.progress import Silent
from tests.conftest import Done

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="prlimit")
LONG = BenchTest(0, 4000)  # more than a second of it on any machine


def nothing(n: int) -> None:
    return


@pytest.fixture
def worker() -> Iterator[ChildWorker]:
    made = ChildWorker()
    yield made
    made.close()


@pytest.fixture
def order(tiny_gguf: Path) -> Callable[..., Order]:
    from localllm.formats.gguf import read_model

    def make(test: BenchTest, **method: Any) -> Order:
        options = plan_options(Setup(), test)
        plan = settled_plan(read_model(tiny_gguf), tiny_gguf, this_machine(), options)
        return Order(str(tiny_gguf), plan, 1, test, Method(**{"repetitions": 1, **method}))

    return make


# --- the child -----------------------------------------------------------------------------


def test_one_child_holds_the_model_for_all_rows(
    worker: ChildWorker, order: Callable[..., Order]
) -> None:
    loads: list[int] = []
    samples: list[int] = []
    first = worker.measure(order(BenchTest(16, 0), repetitions=2), loads.append, samples.append)
    pid, loaded = worker.pid, sum(loads)
    second = worker.measure(order(BenchTest(0, 3, 8)), loads.append, samples.append)
    assert isinstance(first, Measured)
    assert [ns for ns in samples if ns] == [*first.samples_ns, *second.samples_ns]
    assert samples.count(0) == 2  # warm-ups
    assert worker.pid == pid
    assert sum(loads) == loaded > 0


@POSIX
@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGSEGV, "crashed"), (signal.SIGABRT, "crashed"), (signal.SIGKILL, "out_of_memory")],
)
def test_a_child_that_dies_is_a_row(
    worker: ChildWorker, order: Callable[..., Order], number: int, kind: str
) -> None:
    def strike(ns: int) -> None:
        assert worker.pid is not None
        os.kill(worker.pid, number)

    with pytest.raises(RowFailed) as caught:
        worker.measure(order(LONG, repetitions=50), nothing, strike)
    assert caught.value.failure.kind == kind
    assert signal.Signals(number).name in caught.value.failure.message
    assert worker.pid is None
    assert len(worker.measure(order(BenchTest(8, 0)), nothing, nothing).samples_ns) == 1


@LINUX
def test_memory_that_is_refused_is_a_row(
    worker: ChildWorker, order: Callable[..., Order], tiny_gguf: Path
) -> None:
    import resource

    worker.measure(order(BenchTest(8, 0)), nothing, nothing)
    assert worker.pid is not None
    used = psutil.Process(worker.pid).memory_info().vms
    limit = used + (16 << 20)
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, limit))
    large = order(BenchTest(8, 0, 200_000), warm_up=False)  # its cache alone takes 200 MB
    with pytest.raises(RowFailed) as caught:
        worker.measure(large, nothing, nothing)
    assert caught.value.failure.kind == "out_of_memory"
    assert worker.measure(order(BenchTest(4, 0)), nothing, nothing).samples_ns


def test_a_time_limit_is_a_row(order: Callable[..., Order]) -> None:
    worker = ChildWorker(timeout_s=1.5)
    try:
        begun = time.monotonic()
        with pytest.raises(RowFailed) as caught:
            worker.measure(order(LONG, repetitions=1000), nothing, nothing)
        assert caught.value.failure.kind == "time_limit"
        assert "1.5 s" in caught.value.failure.message
        assert time.monotonic() - begun < 60
        assert worker.pid is None
    finally:
        worker.close()


def test_what_concerns_the_model_is_raised(
    worker: ChildWorker, order: Callable[..., Order], tiny_gguf: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(tiny_gguf.read_bytes()[:-1000])
    broken = replace(order(BenchTest(8, 0)), path=str(bad))
    with pytest.raises(DamagedFile) as caught:
        worker.measure(broken, nothing, nothing)
    assert "bad.gguf" in caught.value.message
    here = HereWorker()
    with pytest.raises(DamagedFile):
        here.measure(broken, nothing, nothing)


def test_failures_have_kinds() -> None:
    def kind(error: BaseException) -> str | None:
        failure = failure_of(error)
        return failure.kind if failure else None

    assert kind(MemoryError()) == "out_of_memory"
    assert kind(DoesNotFit("too large")) == "does_not_fit"
    assert kind(EngineError("llama.cpp could not load x: std::bad_alloc")) == "out_of_memory"
    assert kind(EngineError("unable to allocate CUDA0 buffer")) == "out_of_memory"
    assert kind(EngineError("x: a.cpp:1: GGML_ASSERT(n > 0) failed")) == "crashed"
    assert kind(EngineError("unknown model architecture")) == "refused"
    assert kind(UsageProblem("a q8_0 V cache needs flash attention")) == "refused"
    assert kind(DamagedFile("x is damaged")) is None
    abort = death(-6, ["terminate called after ...", "  what():  std::bad_alloc"])
    assert abort.kind == "out_of_memory"
    assert death(-6, ["error: x.cpp:3: GGML_ASSERT(y) failed"]).message.startswith("x.cpp:3")
    assert death(1, ["KeyError: 'x'"]).message == "KeyError: 'x' (exit status 1)"
    assert death(0xC0000017, []).kind == "out_of_memory"
    assert death(0xC0000005, []).kind == "crashed"


# --- the sweep -----------------------------------------------------------------------------


def made(model: Model, registry: Registry, *tests: BenchTest, **options: Any) -> Sweep:
    cases = [Case(Setup(n_threads=1), test) for test in tests]
    method = Method(repetitions=1, warm_up=False)
    return sweep_of(model, cases, registry, SweepOptions(method=method, **options))


def stored(registry: Registry, model: Model) -> BenchRun:
    kept = registry.measurements(model, "bench")[0]
    # killed right after the first row, a run does not know its own number yet
    return replace(run_from(kept.data, origin="the registry"), id=kept.id)


def test_rows_that_fail_do_not_end_a_sweep(tiny_model: Model, registry: Registry) -> None:
    huge = BenchTest(8, 0, 2_000_000_000)  # a cache of terabytes
    sweep = made(tiny_model, registry, huge, BenchTest(8, 0))
    sweep.measure(Silent())
    first, second = sweep.run.rows
    assert first.failure is not None
    assert first.failure.kind == "does_not_fit"
    assert (first.samples_ns, first.avg_ts, first.n_depth) == ((), 0.0, 2_000_000_000)
    assert second.failure is None
    assert problem_of(sweep) is None
    assert stored(registry, tiny_model).rows == sweep.run.rows


def test_a_sweep_without_a_figure_ends_in_the_failures_code(
    tiny_model: Model, registry: Registry
) -> None:
    sweep = made(tiny_model, registry, BenchTest(8, 0, 2_000_000_000))
    sweep.measure(Silent())
    problem = problem_of(sweep)
    assert isinstance(problem, DoesNotFit)
    late = made(tiny_model, registry, LONG, timeout_s=0.01)
    late.measure(Silent())
    assert isinstance(problem_of(late), EngineError)


def test_resuming_measures_only_what_is_left(tiny_model: Model, registry: Registry) -> None:
    tests = (BenchTest(8, 0), BenchTest(9, 0), BenchTest(0, 2))
    whole = made(tiny_model, registry, *tests, tag="nightly")
    whole.measure(Silent())
    rows = whole.run.rows
    whole.keep(replace(whole.run, rows=rows[:1], complete=False))
    again = made(tiny_model, registry, *tests, resume=True)
    assert (again.run.id, again.run.rows, again.run.tag) == (whole.run.id, rows[:1], "nightly")
    again.measure(Silent())
    assert again.run.rows[0] == rows[0]
    assert [row.test for row in again.run.rows] == ["pp8", "pp9", "tg2"]
    # another sweep, and one that was finished, are begun anew
    assert not made(tiny_model, registry, *tests[:2]).resume()
    again.keep(replace(again.run, complete=True))
    warned: list[str] = []
    cases = [Case(Setup(n_threads=1), test) for test in tests]
    method = Method(repetitions=1, warm_up=False)
    fresh = sweep_of(
        tiny_model, cases, registry, SweepOptions(method=method, resume=True), warned.append
    )
    assert (fresh.run.rows, fresh.run.id) == ((), None)
    assert len(warned) == 1


def test_a_home_that_cannot_be_written_keeps_no_rows_and_loses_none(
    tiny_model: Model, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.errors import HomeUnwritable

    def refuse(*args: object) -> int:
        raise HomeUnwritable("the home cannot be written")

    monkeypatch.setattr(registry, "record", refuse)
    warned: list[str] = []
    cases = [Case(Setup(n_threads=1), BenchTest(n, 0)) for n in (4, 5)]
    options = SweepOptions(method=Method(repetitions=1, warm_up=False))
    sweep = sweep_of(tiny_model, cases, registry, options, warned.append)
    assert [row.test for row in sweep.measure(Silent()).rows] == ["pp4", "pp5"]
    assert warned == ["the figures are not kept: the home cannot be written"]


# --- the whole program ---------------------------------------------------------------------

SWEEP = ("bench", "tiny", "-p", "4", "-n", "3000", "-d", "0-9", "-r", "2", "-t", "1")


@pytest.fixture
def running(tiny_model: Model, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep of twenty rows that has measured at least one and is at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "localllm", *SWEEP, "--progress", "none"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    registry = Registry(home)
    deadline = time.monotonic() + 120
    while not registry.measurements(tiny_model, "bench") and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@POSIX
def test_a_killed_parent_leaves_no_orphan_and_is_taken_up_again(
    running: subprocess.Popen[str],
    tiny_model: Model,
    registry: Registry,
    shell: Callable[..., Done],
) -> None:
    orphans = children(running)
    running.kill()
    running.communicate()
    before = stored(registry, tiny_model)
    assert not before.complete
    assert before.rows
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not alive
    # without further rows: a sweep of so many would take long here
    done = shell(*SWEEP, "--resume", "--timeout", "0.001", "--json")
    assert done.exit_code == 0, done
    (run,) = json.loads(done.out)["data"]
    assert run["id"] == before.id
    assert len(run["rows"]) == 20
    kept = [tuple(row["samples_ns"]) for row in run["rows"]][: len(before.rows)]
    assert kept == [row.samples_ns for row in before.rows]
    assert all(r["failure"]["kind"] == "time_limit" for r in run["rows"][len(before.rows) :])


@POSIX
def test_ctrl_c_keeps_the_rows_and_ends_the_child(
    running: subprocess.Popen[str], tiny_model: Model, registry: Registry
) -> None:
    family = children(running)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: parent and child alike
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    run = stored(registry, tiny_model)
    assert not run.complete
    assert f"{len(run.rows)} of 20 rows are kept as #{run.id}" in err
    assert "--resume" in err
    assert "pp4" in out  # what is finished is shown
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


@POSIX
def test_a_crash_in_the_middle_is_a_row_of_the_program(
    running: subprocess.Popen[str], tiny_model: Model, registry: Registry
) -> None:
    measuring = [
        c for c in children(running) if "localllm.library.bench.measuring.child" in c.cmdline()
    ]
    measuring[0].send_signal(signal.SIGSEGV)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        rows = stored(registry, tiny_model).rows
        crashed = [i for i, row in enumerate(rows) if row.failure is not None]
        if crashed and len(rows) > crashed[0] + 1:
            break
        time.sleep(0.05)
    assert rows[crashed[0]].failure is not None
    assert rows[crashed[0]].failure.kind == "crashed"
    assert rows[-1].failure is None
    assert running.poll() is None
