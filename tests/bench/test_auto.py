"""--auto's search, on machines whose speed is a known function of the settings."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from localllm.bench.tuning.auto import Search, search
from localllm.bench.tuning.duel import MAX_ROUNDS, duel, judge
from localllm.bench.tuning.space import Cores, Tuning, axes, thread_counts
from localllm.library.bench.case import BenchTest, Setup

CORES = Cores(usable_logical=16, physical=8, performance=None)
DEFAULT = Tuning(Setup(n_threads=8), n_threads_batch=8)


@dataclass
class Simulated:
    """A machine: seconds a token as a function of the setup, with noise, and its clock."""

    pp: Callable[[Setup], float | None]
    tg: Callable[[Setup], float | None]
    noise: float = 0.0
    clock: float = 0.0
    runs: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(7))

    def time(self, setup: Setup, test: BenchTest) -> float | None:
        each = self.pp(setup) if test.n_prompt else self.tg(setup)
        self.runs += 1
        if each is None:
            return None
        took = each * test.n_tokens * math.exp(self.random.gauss(0, self.noise))
        self.clock += took
        return took

    def search(self, budget_s: float, kv_types: tuple[str, ...] = ("f16",)) -> Search | None:
        space = axes(CORES, 32, gpus=False, experts=False, kv_types=kv_types)
        return search(self.time, DEFAULT, space, budget_s=budget_s, now=lambda: self.clock)


def plain(setup: Setup) -> float:
    return 0.002


def test_finds_the_top_of_every_axis() -> None:
    def pp(setup: Setup) -> float:
        threads = abs(math.log2(setup.n_threads / 16))  # prompts like every logical core
        ubatch = abs(math.log2(setup.n_ubatch / 1024))
        return (
            0.001 * (1 + 0.2 * threads + 0.1 * ubatch) * (0.8 if setup.flash_attn == "off" else 1)
        )

    def tg(setup: Setup) -> float:
        return 0.02 * (1 + 0.3 * abs(math.log2(setup.n_threads / 4)))

    found = Simulated(pp, tg).search(2000)
    assert found is not None
    winner = found.winner
    assert (winner.n_threads_batch, winner.setup.n_threads) == (16, 4)
    assert (winner.setup.n_ubatch, winner.setup.flash_attn) == (1024, "off")
    assert found.better
    # The truth, by the functions above.
    slow, fast = DEFAULT.of("pp"), winner.of("pp")
    assert found.pp.speedup == pytest.approx(pp(slow) / pp(fast))
    assert found.tg.speedup == pytest.approx(1.3)
    gained = {c.name: c for c in found.choices}
    assert gained["threads for generation"].before == "8"
    assert gained["threads for generation"].kept == "4"


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_keeps_the_defaults_where_nothing_is_better(noise: float) -> None:
    kept = 0
    for seed in range(20):
        machine = Simulated(plain, plain, noise, random=random.Random(seed))
        found = machine.search(1000)
        assert found is not None
        kept += not found.better
    assert kept >= 18  # twenty searches of about fifteen duels each; the confirmation stands


def test_a_real_gain_is_found_in_noise() -> None:
    def tg(setup: Setup) -> float:
        return 0.02 if setup.n_threads >= 8 else 0.015

    hits = 0
    for seed in range(20):
        machine = Simulated(plain, tg, noise=0.03, random=random.Random(seed))
        found = machine.search(1000)
        assert found is not None
        hits += found.better and found.winner.setup.n_threads < 8
    assert hits >= 18


def test_the_budget_holds_and_what_was_left_out_is_named() -> None:
    machine = Simulated(plain, lambda s: 0.02, noise=0.02)
    found = machine.search(10)
    assert found is not None
    longest = max(0.02 * found.n_gen, 0.002 * found.n_prompt)
    assert machine.clock <= 10 + 2 * longest
    assert any(choice.left_out for choice in found.choices)


def test_a_failing_value_is_not_chosen_and_does_not_end_the_search() -> None:
    def pp(setup: Setup) -> float | None:
        if setup.n_ubatch > 512:
            return None  # out of memory
        return 0.001 if setup.flash_attn == "off" else 0.002

    found = Simulated(pp, plain).search(1000)
    assert found is not None
    assert found.winner.setup.flash_attn == "off"
    micro = next(c for c in found.choices if c.name == "micro-batch")
    assert micro.tried[0].outcome == "failed"
    assert micro.kept == "512"


def test_where_nothing_runs_there_is_no_search() -> None:
    assert Simulated(lambda s: None, plain).search(100) is None


def test_a_slow_machine_gets_small_tests_and_tries_no_batch_they_would_not_show() -> None:
    found = Simulated(lambda s: 0.05, lambda s: 1.0).search(600)
    assert found is not None
    assert (found.n_prompt, found.n_gen) == (64, 4)
    micro = next(c for c in found.choices if c.name == "micro-batch")
    assert (micro.tried, micro.kept) == ((), "512")
    assert "1024" in micro.left_out


def test_quantized_cache_brings_flash_attention_with_it() -> None:
    def tg(setup: Setup) -> float:
        if setup.type_v == "q8_0":
            assert setup.flash_attn == "auto"
            return 0.01
        return 0.02

    found = Simulated(plain, tg).search(1000, kv_types=("f16", "q8_0"))
    assert found is not None
    assert (found.winner.setup.type_k, found.winner.setup.type_v) == ("q8_0", "q8_0")


def test_offload_values() -> None:
    (offload, *_) = axes(CORES, 32, gpus=True, experts=True, kv_types=("f16",))
    tunings = [offload.with_value(DEFAULT, v).setup for v in offload.values]
    assert [(t.n_gpu_layers, t.n_cpu_moe) for t in tunings] == [(None, 0), (0, 0), (32, 32)]
    assert [offload.read(replace(DEFAULT, setup=t)) for t in tunings] == list(offload.values)


def test_thread_counts() -> None:
    assert thread_counts(CORES) == (1, 2, 3, 4, 6, 8, 12, 16)
    assert thread_counts(Cores(20, 14, 6)) == (1, 2, 3, 4, 6, 8, 12, 14, 16, 20)
    assert thread_counts(Cores(1, 1, None)) == (1,)


def test_a_duel_alternates_who_begins() -> None:
    order: list[str] = []

    def trial(name: str, took: float) -> Callable[[], tuple[float]]:
        def run() -> tuple[float]:
            order.append(name)
            return (took,)

        return run

    found = duel(trial("a", 2.0), trial("b", 1.0))
    assert (found.outcome, found.speedup, found.rounds) == ("faster", 2.0, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_a_hopeless_challenger_gets_two_rounds() -> None:
    found = duel(lambda: (1.0,), lambda: (2.0,))
    assert (found.outcome, found.rounds) == ("slower", 2)


def test_an_undecided_duel_ends() -> None:
    values = iter([1.0, 1.01, 0.99, 1.0] * 20)
    assert duel(lambda: (next(values),), lambda: (next(values),)).rounds <= MAX_ROUNDS


def test_the_interval_is_students() -> None:
    # mean 0.1, deviation 0.1, n 3: half width 4.303 * 0.1 / sqrt(3)
    found = judge([0.0, 0.1, 0.2])
    assert found.low == pytest.approx(math.exp(0.1 - 0.24843), rel=1e-4)
    assert found.high == pytest.approx(math.exp(0.1 + 0.24843), rel=1e-4)
