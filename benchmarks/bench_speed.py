"""`localllm bench` against llama-bench: the same numbers?

    python benchmarks/bench_speed.py MODEL.gguf [--llama-bench PATH] [--rounds 10] [--threads N]

Both are run as programs, in turn and in changing order, on the same file with the same threads,
repetitions and environment: localllm sets GOMP_SPINCOUNT=0 on machines of four cores and less,
so llama-bench gets it too. They must be linked with the same build of llama.cpp; else the ratio
is of the builds. Printed for each test: the ratio of the means of all runs, and its 95 %
interval from the rounds' own ratios. The project wants 0.98 to 1.02.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from localllm.engine.threads import default_threads
from localllm.library.bench.statistics import ci95

TARGET = (0.98, 1.02)


def rates(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """The mean rate of each test that a program printed as llama-bench's JSON."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return {name_of(row): row["avg_ts"] for row in json.loads(done.stdout)}


def name_of(row: dict[str, Any]) -> str:
    """`pp512`, `tg128 @ d1024`."""
    parts = [f"pp{row['n_prompt']}"] if row["n_prompt"] else []
    parts += [f"tg{row['n_gen']}"] if row["n_gen"] else []
    return "+".join(parts) + (f" @ d{row['n_depth']}" if row["n_depth"] else "")


def measure(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Every test's rates of both programs, a value a round."""
    tests = ["-p", options.p, "-n", options.n, "-d", options.d, "-r", str(options.repetitions),
             "-t", str(options.threads), "-o", "json"]  # fmt: skip
    environment = dict(os.environ)
    if options.threads <= 4 and "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", "0")
    ours = [sys.executable, "-m", "localllm", "bench", str(options.model), *tests]
    programs = {
        "localllm": [*ours, "--progress", "none"],
        "llama-bench": [options.llama_bench, "-m", str(options.model), *tests],
    }
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(options.rounds):
        try:
            turn = {
                name: rates(programs[name], environment)
                for name in sorted(programs, reverse=number % 2 == 1)
            }
        except KeyboardInterrupt:
            break  # what was measured counts
        for name, by_test in turn.items():
            for test, rate in by_test.items():
                found.setdefault(test, {}).setdefault(name, []).append(rate)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return found


def summary(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """The ratio of means, and the interval of the rounds' mean log ratio."""
    interval = ci95([math.log(a / b) for a, b in zip(ours, theirs, strict=True)])
    low, high = (interval.low, interval.high) if interval else (-math.inf, math.inf)
    return {
        "localllm_ts": statistics.fmean(ours),
        "llama_bench_ts": statistics.fmean(theirs),
        "ratio": statistics.fmean(ours) / statistics.fmean(theirs),
        "median_ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "low": math.exp(low),
        "high": math.exp(high),
        "samples": {"localllm": ours, "llama_bench": theirs},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-bench", default=shutil.which("llama-bench"))
    parser.add_argument("-p", default="512")
    parser.add_argument("-n", default="128")
    parser.add_argument("-d", default="0")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.llama_bench is None:
        sys.exit("llama-bench is not on PATH: --llama-bench PATH")
    found = measure(options)
    results = {test: summary(r["localllm"], r["llama-bench"]) for test, r in found.items()}
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{options.model.name}: {options.repetitions} repetitions a round, "
          f"{options.threads} threads")  # fmt: skip
    for test, r in results.items():
        verdict = "within" if TARGET[0] <= r["ratio"] <= TARGET[1] else "OUTSIDE"
        print(
            f"  {test:10} localllm {r['localllm_ts']:9.2f}  llama-bench {r['llama_bench_ts']:9.2f}"
            f"  ratio {r['ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
            f"  median {r['median_ratio']:.3f}  {len(r['samples']['localllm'])} rounds"
            f"  {verdict} {TARGET[0]} to {TARGET[1]}"
        )


if __name__ == "__main__":
    main()
