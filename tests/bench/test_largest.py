"""The largest batches that fit: against trying every size."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.formats.gguf import GGUFHeader, read_header
from localllm.library.bench.largest import counts_up_to, largest_parallel, largest_ubatch
from localllm.placement import Plan, PlanOptions, Target, plan_for
from localllm.registry import Model
from tests.conftest import Done
from tests.placement.test_planner import cards
from tests.support.real_shapes import SHAPES, write

Cli = Callable[..., Done]


@pytest.fixture(scope="module")
def llama8b(tmp_path_factory: pytest.TempPathFactory) -> GGUFHeader:
    """4.6 GiB of weights in 33 layers; a token of cache takes 128 KiB."""
    return read_header(write(SHAPES["llama3.1-8b"](), tmp_path_factory.mktemp("shape")))


class Planner:
    """Plans `llama8b` with one field of the options varied; counts how often it is asked."""

    def __init__(self, header: GGUFHeader, target: Target, field: str) -> None:
        self.header, self.target, self.field = header, target, field
        self.options = PlanOptions(n_ctx=1024)
        self.asked = 0

    def __call__(self, size: int) -> Plan:
        self.asked += 1
        return plan_for(self.header, self.target, replace(self.options, **{self.field: size}))  # type: ignore[arg-type]


@pytest.mark.parametrize("free_gib", [3.0, 5.3, 6.0, 9.0])
def test_as_many_sequences_as_leave_the_layers_alone(llama8b: GGUFHeader, free_gib: float) -> None:
    plan = Planner(llama8b, cards(free_gib), "n_parallel")
    found = largest_parallel(plan, 2048)
    assert plan.asked <= 1 + 9
    layers = plan(1).n_offloaded
    near = [1, found // 2, found, found + 1, found + 2, 256]
    fits = [n for n in near if n and n <= 256 and plan(n).runs and plan(n).n_offloaded >= layers]
    assert fits == [n for n in near if n and n <= found]
    if free_gib == 9.0:  # 4.6 GiB of weights; 1024 tokens of 128 KiB a sequence
        assert 25 <= found <= int((9.0 - 4.6) * 8)


@pytest.mark.parametrize("free_gib", [5.0, 5.3, 6.5, 24.0])
def test_as_large_a_micro_batch(llama8b: GGUFHeader, free_gib: float) -> None:
    plan = Planner(llama8b, cards(free_gib), "n_ubatch")
    sizes = [64, 128, 256, 512, 1024, 2048]
    layers = plan(64).n_offloaded
    fits = [n for n in sizes if plan(n).runs and plan(n).n_offloaded >= layers]
    assert largest_ubatch(plan, 2048) == max(fits)


def test_sizes_that_are_no_powers_of_two(llama8b: GGUFHeader) -> None:
    plan = Planner(llama8b, cards(24.0), "n_ubatch")
    assert largest_ubatch(plan, 1000) == 1000
    assert largest_ubatch(plan, 40) == 40


def test_where_nothing_fits(llama8b: GGUFHeader) -> None:
    nowhere = cards(host_gib=1)
    assert largest_parallel(Planner(llama8b, nowhere, "n_parallel"), 2048) == 1
    assert largest_ubatch(Planner(llama8b, nowhere, "n_ubatch"), 2048) == 64


def test_counts() -> None:
    assert counts_up_to(1) == (1,)
    assert counts_up_to(48) == (1, 2, 4, 8, 16, 32, 48)


def test_from_the_command_line(cli: Cli, tiny_model: Model, tmp_path: Path) -> None:
    small = ("-p", "4", "-n", "2", "-r", "1", "--no-isolate")
    done = cli("bench", "tiny", *small, "-ub", "fit", "-b", "96", "--batched", "fit", "--json")
    assert done.exit_code == 0, done
    (run,) = done.data
    assert {row["n_ubatch"] for row in run["rows"]} == {96}
    assert [row["n_parallel"] for row in run["batched"]] == [1, 2, 4, 8, 16, 32, 64, 96]
    assert all(row["failure"] is None for row in run["batched"])
    rows = csv.DictReader(io.StringIO(cli("bench", "tiny", *small, "-ub", "fit", "-o", "csv").out))
    assert {row["n_ubatch"] for row in rows} == {"2048"}
    assert "2048" in cli("bench", "tiny", *small, "-ub", "fit").out
    done = cli("bench", "tiny", "--batched", "many")
    assert done.exit_code == 2 and "--batched" in done.err
