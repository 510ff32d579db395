"""bench: rows that add up, kept in the registry."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from localllm.bench.measure import BenchTest, bench_tests, timing
from localllm.errors import UsageProblem
from localllm.registry import Model, Registry
from tests.conftest import Done

Cli = Callable[..., Done]


def test_statistics_are_llama_benchs() -> None:
    t = timing(BenchTest(100, 0), [10**9, 2 * 10**9, 4 * 10**9], datetime(2026, 1, 2, tzinfo=UTC))
    assert t.samples_ts == (100.0, 50.0, 25.0)
    assert t.avg_ts == pytest.approx(statistics.mean([100, 50, 25]))  # the mean of rates
    assert t.stddev_ts == pytest.approx(statistics.stdev([100, 50, 25]))
    assert (t.test, t.test_time) == ("pp100", "2026-01-02T00:00:00Z")
    assert timing(BenchTest(0, 8), [10**9], datetime.now(UTC)).stddev_ts == 0.0


def test_zero_leaves_a_test_out() -> None:
    assert [t.name for t in bench_tests([512, 0], [128])] == ["pp512", "tg128"]
    with pytest.raises(UsageProblem):
        bench_tests([0], [0])


def test_rows_are_kept_and_shown(cli: Cli, tiny_model: Model, registry: Registry) -> None:
    done = cli("bench", "tiny", "-p", "32", "-n", "8", "-r", "2", "--json")
    assert done.exit_code == 0, done
    (run,) = done.data
    pp, tg = run["rows"]
    assert (pp["n_prompt"], pp["n_gen"], tg["n_prompt"], tg["n_gen"]) == (32, 0, 0, 8)
    assert len(pp["samples_ns"]) == 2
    assert tg["avg_ts"] == pytest.approx(statistics.mean(8e9 / ns for ns in tg["samples_ns"]))
    assert tg["sha256"] == tiny_model.weights[0].sha256
    assert tg["predicted_bytes"] > tg["model_size"]
    (kept,) = registry.measurements(tiny_model, "bench")
    assert kept.id == run["id"]
    assert len(kept.data["rows"]) == 2
    assert cli("show", "tiny", "--json").data["measurements"][0]["id"] == kept.id


def test_several_models_and_a_loose_file(cli: Cli, tiny_model: Model, tiny_gguf: object) -> None:
    done = cli("bench", "tiny", tiny_gguf, "-p", "0", "-n", "4", "-r", "1", "--json")
    assert [run["id"] is None for run in done.data] == [False, True]


@pytest.mark.parametrize(
    ("args", "code"), [(("-p", "0", "-n", "0"), 2), (("-r", "0"), 2), (("--kv", "q99"), 2)]
)
def test_bad_requests(cli: Cli, tiny_model: Model, args: tuple[str, ...], code: int) -> None:
    assert cli("bench", "tiny", *args).exit_code == code
