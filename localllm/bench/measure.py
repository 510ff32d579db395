"""Prompt processing and token generation, by llama-bench's method."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem

if TYPE_CHECKING:
    from localllm.engine.context import Context

Advance = Callable[[int], None]


@dataclass(frozen=True)
class BenchTest:
    """`n_prompt` tokens processed (pp) or `n_gen` generated (tg); the other is 0."""

    n_prompt: int
    n_gen: int

    @property
    def name(self) -> str:
        return f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"

    @property
    def n_tokens(self) -> int:
        return self.n_prompt or self.n_gen


@dataclass(frozen=True)
class Timing:
    """One test's samples. Rates are tokens per second: `avg_ts` is the mean of the
    repetitions' rates and `stddev_ts` their sample deviation, as llama-bench has them."""

    test: str
    n_prompt: int
    n_gen: int
    test_time: str  # ISO 8601, UTC, when the test began
    avg_ns: float
    stddev_ns: float
    avg_ts: float
    stddev_ts: float
    samples_ns: tuple[int, ...]
    samples_ts: tuple[float, ...]


def bench_tests(prompts: Sequence[int], generations: Sequence[int]) -> tuple[BenchTest, ...]:
    """The tests for these sizes; 0 leaves one out. Raises UsageProblem if none is left."""
    tests = [BenchTest(n, 0) for n in prompts if n] + [BenchTest(0, n) for n in generations if n]
    if not tests:
        raise UsageProblem("nothing to measure", "say -p 512, -n 128, or both")
    return tuple(tests)


def measure(context: Context, test: BenchTest, repetitions: int, advance: Advance) -> Timing:
    """Time one test `repetitions` times after a warm-up; `advance` counts runs, the warm-up
    included. A new context for each test keeps them independent."""
    from localllm.engine.measure import time_generation, time_prompt

    began = datetime.now(UTC)
    run = time_prompt if test.n_prompt else time_generation
    samples = run(context, test.n_tokens, repetitions, advance=advance)
    return timing(test, samples, began)


def timing(test: BenchTest, samples_ns: Sequence[int], began: datetime) -> Timing:
    """The statistics of `samples_ns`."""
    rates = [test.n_tokens * 1e9 / ns for ns in samples_ns]
    return Timing(
        test=test.name,
        n_prompt=test.n_prompt,
        n_gen=test.n_gen,
        test_time=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        avg_ns=statistics.fmean(samples_ns),
        stddev_ns=_deviation(samples_ns),
        avg_ts=statistics.fmean(rates),
        stddev_ts=_deviation(rates),
        samples_ns=tuple(samples_ns),
        samples_ts=tuple(rates),
    )


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
