"""What another process's load does to a benchmark: where "noisy" begins.

    python benchmarks/noise_threshold.py MODEL.gguf [--rounds 6] [--tokens 16] [--json]

For an otherwise idle machine. A second process spins for a share of the time (its duty); rounds
of all duties are interleaved. For each duty: the load of others that the evidence saw, token
generation's and prompt processing's rate against duty 0 (medians), and the samples' deviation
over their mean. `bench/evidence.py` calls a row noisy above OTHER_CORES or DEVIATION; the last
lines say what the samplers themselves take of a core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from localllm.engine.measure import BenchRunner
from localllm.hardware import CpuSampler
from localllm.library.bench.conditions.evidence import DEVIATION, OTHER_CORES, OTHER_CORES_WHEN_FULL
from localllm.placement import PlanOptions, open_model

DUTIES = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
TESTS = {"tg": (0, 1), "pp": (8, 0)}  # times --tokens
_SPIN = """
import sys, time
duty = float(sys.argv[1])
while True:
    until = time.perf_counter() + 0.02 * duty
    while time.perf_counter() < until:
        pass
    time.sleep(0.02 * (1 - duty))
"""


@dataclass(frozen=True)
class Row:
    test: str
    duty: float
    other_cores: float  # as the evidence saw it, median
    rate_ratio: float  # against duty 0
    deviation: float  # of the samples, over their mean


@contextmanager
def spinning(duty: float) -> Iterator[None]:
    if not duty:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", _SPIN, str(duty)])
    try:
        time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def sample(runner: BenchRunner, duty: float) -> tuple[float, float]:
    """Tokens a second, and the load of others: the spinner's, for a child counts as our own."""
    runner.prepare()
    with CpuSampler() as sampler:
        begun = time.process_time()
        with sampler.watch():
            nanoseconds = runner.run()
        own = time.process_time() - begun
    load = sampler.load
    assert load is not None
    spun = max(0.0, load.own_cores - own / load.measured_s) if duty else 0.0
    return (runner.n_prompt + runner.n_gen) * 1e9 / nanoseconds, load.other_cores + spun


def measure(model: Path, rounds: int, tokens: int) -> list[Row]:
    found: list[Row] = []
    with open_model(model, PlanOptions(n_ctx=1024)) as opened:
        for name, (prompt, gen) in TESTS.items():
            runner = BenchRunner(opened.context, prompt * tokens, gen * tokens)
            runner.warm_up()
            seen: dict[float, list[tuple[float, float]]] = {duty: [] for duty in DUTIES}
            for _ in range(rounds):
                for duty, kept in seen.items():
                    with spinning(duty):
                        kept.append(sample(runner, duty))
            still = statistics.median(rate for rate, _ in seen[0.0])
            for duty, kept in seen.items():
                rates = [rate for rate, _ in kept]
                found.append(
                    Row(
                        test=name,
                        duty=duty,
                        other_cores=statistics.median(other for _, other in kept),
                        rate_ratio=statistics.median(rates) / still,
                        deviation=statistics.stdev(rates) / statistics.fmean(rates),
                    )
                )
    return found


def sampler_share() -> float:
    """What the samplers take of one core, while nothing else is done."""
    with CpuSampler() as sampler, sampler.watch():
        begun, spent = time.perf_counter(), time.process_time()
        time.sleep(5)
        return (time.process_time() - spent) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=16, help="generated; prompts are 8 times it")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = measure(given.model, max(2, given.rounds), given.tokens)
    share = sampler_share()
    if given.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "sampler_share": share}))
        return
    print("test | spinner | others seen | rate against none | deviation")
    for row in rows:
        print(
            f"{row.test:4} | {row.duty:7.2f} | {row.other_cores:11.2f} | {row.rate_ratio:17.3f} |"
            f" {100 * row.deviation:7.1f} %"
        )
    print(
        f"noisy above {OTHER_CORES} cores of others ({OTHER_CORES_WHEN_FULL} where none is free), "
        f"or {100 * DEVIATION:.0f} % deviation"
    )
    print(f"the sampler takes {100 * share:.2f} % of a core")


if __name__ == "__main__":
    main()
