"""bench and quality of an adapter: its base is what runs, with the adapter attached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.bench.comparing.side import Side
from localllm.engine.adapter import LoraAdapter, attach, attached
from localllm.engine.context import Context
from localllm.errors import EngineError
from localllm.library.bench.case import BenchTest, Case, Setup
from localllm.library.bench.conditions.bandwidth import token_reads
from localllm.registry import Model, Registry
from tests.bench.test_bandwidth import opened_on, tensors
from tests.conftest import Done
from tests.support.tiny_models import tiny_lora
from tests.support.tuned import registered_adapter

Cli = Callable[..., Done]
SMALL = ("-p", "16", "-n", "4", "-r", "2", "-t", "1")


@pytest.fixture
def adapter(registry: Registry, tiny_model: Model, tmp_path: Path) -> Model:
    return registered_adapter(registry, tiny_model, tmp_path / "made")


@pytest.fixture
def at_work(monkeypatch: pytest.MonkeyPatch) -> set[tuple[Path, ...]]:
    """What was attached whenever a context was about to compute."""
    found: set[tuple[Path, ...]] = set()
    arm = Context.arm

    def spy(self: Context) -> None:
        found.add(tuple(one.adapter.path for one in attached(self)))
        arm(self)

    monkeypatch.setattr(Context, "arm", spy)
    return found


def test_everything_that_bench_measures_has_the_adapter_attached(
    cli: Cli, registry: Registry, adapter: Model, at_work: set[tuple[Path, ...]]
) -> None:
    more = ("--latency", "--batched", "2", "--serving", "2", "--no-isolate")
    done = cli("bench", "base:tuned", *SMALL, *more, "--json")
    assert done.exit_code == 0, done
    assert at_work == {(adapter.path,)}
    (run,) = done.data
    assert [row["failure"] for row in (*run["rows"], *run["batched"], *run["serving"])] == [
        None
    ] * 6
    assert {row["model"] for row in run["rows"]} == {"base:tuned"}
    (kept,) = registry.measurements(adapter, "bench")
    assert kept.sha256 == run["sha256"]
    at_work.clear()
    plain = cli("bench", "org/tiny", *SMALL, "--no-isolate", "--json")
    assert at_work == {()}
    assert plain.data[0]["sha256"] not in (None, run["sha256"])


def test_the_child_process_attaches_it_too(cli: Cli, adapter: Model) -> None:
    done = cli("bench", "base:tuned", "org/tiny", *SMALL, "--load", "--json")
    assert done.exit_code == 0, done
    tuned, plain = (run["rows"][1]["bytes_per_token"] for run in done.data)
    assert tuned - plain == sum(tensors(adapter.path).values())
    assert len(done.data[0]["load"]["warm_s"]) == 3


def test_a_gate_tells_an_adapter_from_its_base(cli: Cli, adapter: Model) -> None:
    assert cli("bench", "base:tuned", *SMALL, "--tag", "before").exit_code == 0
    done = cli("bench", "gate", "org/tiny", "--baseline", "before", "--json")
    assert done.exit_code == 2
    assert "base:tuned and org/tiny" in done.json["error"]["message"]


def test_a_gates_side_attaches_adapters(tiny_gguf: Path, tmp_path: Path) -> None:
    case = Case(Setup(n_threads=1), BenchTest(16, 0))
    with Side(tiny_gguf, adapters=[tiny_lora(tmp_path / "lora.gguf")]) as side:
        side.open(case)
        assert side.sample() > 0
    other = tiny_lora(tmp_path / "other.gguf", n_embd=512)
    with Side(tiny_gguf, adapters=[other]) as side, pytest.raises(EngineError):
        side.open(case)


def test_adapters_are_read_for_each_token(tiny_gguf: Path, tmp_path: Path) -> None:
    lora = tiny_lora(tmp_path / "lora.gguf")
    with opened_on(tiny_gguf) as opened:
        before = token_reads(opened, BenchTest(0, 4))
        attach(opened.context, [LoraAdapter(opened.model, lora)])
        after = token_reads(opened, BenchTest(0, 4))
    assert after["CPU"] - before["CPU"] == sum(tensors(lora).values())


def test_quality_of_an_adapter_is_that_of_its_merge(
    cli: Cli, adapter: Model, at_work: set[tuple[Path, ...]], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat and the dog saw hello world in a garden\n" * 40, encoding="utf-8")
    how = ("--text", text, "--ctx", "64", "--chunks", "4", "--threads", "1", "--json")
    merged = cli(
        "merge", "org/tiny", "--lora", "base:tuned", "--type", "F32", "--no-loss", "--json"
    )
    assert merged.exit_code == 0, merged
    at_work.clear()
    tuned = cli("quality", "base:tuned", *how)
    assert tuned.exit_code == 0, tuned
    assert at_work == {(adapter.path,)}
    (row,) = tuned.data["rows"]
    plain, whole = (cli("quality", name, *how).data["rows"][0]["perplexity"]
                    for name in ("org/tiny", merged.data["name"]))  # fmt: skip
    assert row["perplexity"] == pytest.approx(whole, rel=2e-3)
    assert abs(plain / whole - 1) > 0.01
    assert cli("quality", "base:tuned", *how).data["rows"][0]["reused"] is True
    against = cli("quality", merged.data["name"], "--base", "base:tuned", *how)
    assert against.data["rows"][0]["mean_kld"] < 1e-3
    assert against.data["base"]["sha256"] == row["sha256"]
