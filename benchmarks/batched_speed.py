"""Batched throughput against llama-batched-bench's.

    python benchmarks/batched_speed.py MODEL.gguf [--levels 1,2,4] [--rounds 5] [--json]

Needs llama-batched-bench on PATH (or --peer), of the same llama.cpp. Each round runs both, in
turn first and second, so that a noisy machine is noisy for both. Printed are the medians of the
rounds' own ratios, localllm over the peer, of prompt processing and of token generation.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Rates = dict[int, tuple[float, float]]  # level -> prompt and generation, tokens a second

_OURS = """
import json, sys
from pathlib import Path
from localllm.library.bench.measuring.batched import batched
from localllm.engine.options import ContextOptions
from localllm.placement import PlanOptions
path, levels, prompt, gen, threads = json.loads(sys.argv[1])
rows = batched(Path(path), levels, prompt, gen, PlanOptions(n_gpu_layers=0),
               context=ContextOptions(n_threads=threads))
print(json.dumps([[r.n_parallel, r.prompt_tps, r.decode_tps] for r in rows]))
"""


def ours(given: argparse.Namespace, levels: Sequence[int]) -> Rates:
    request = json.dumps([str(given.model), levels, given.prompt, given.gen, given.threads])
    done = subprocess.run(
        [sys.executable, "-c", _OURS, request], capture_output=True, text=True, check=True
    )
    return {n: (prompt, gen) for n, prompt, gen in json.loads(done.stdout)}


def peers(given: argparse.Namespace, levels: Sequence[int]) -> Rates:
    n_ctx = max(levels) * max(256, given.prompt + given.gen)
    command = [
        given.peer, "-m", str(given.model), "-c", str(n_ctx), "-b", "2048", "-ub", "512",
        "-npp", str(given.prompt), "-ntg", str(given.gen), "-npl", ",".join(map(str, levels)),
        "-t", str(given.threads), "-ngl", "0", "--output-format", "jsonl",
    ]  # fmt: skip
    # What the engine sets for itself on few cores (engine/threads.py).
    few = {"GOMP_SPINCOUNT": "0"} if (os.cpu_count() or 1) <= 4 else {}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | few)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"n_kv_max')]
    return {row["pl"]: (row["speed_pp"], row["speed_tg"]) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--levels", default="1,2,4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peer", default=shutil.which("llama-batched-bench"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not given.peer:
        sys.exit("llama-batched-bench is not on PATH; name it with --peer")
    levels = [int(level) for level in given.levels.split(",")]
    ratios: dict[int, list[tuple[float, float]]] = {level: [] for level in levels}
    for i in range(given.rounds):
        order: list[Callable[[argparse.Namespace, Sequence[int]], Rates]] = [ours, peers]
        found = {run: run(given, levels) for run in (order if i % 2 else order[::-1])}
        for level, kept in ratios.items():
            mine, theirs = found[ours][level], found[peers][level]
            kept.append((mine[0] / theirs[0], mine[1] / theirs[1]))
    rows = [
        {
            "n_parallel": level,
            "prompt_ratio": statistics.median(prompt for prompt, _ in kept),
            "decode_ratio": statistics.median(gen for _, gen in kept),
        }
        for level, kept in ratios.items()
    ]
    if given.json:
        print(json.dumps(rows))
        return
    print("sequences | prompt, ratio | generation, ratio")
    for row in rows:
        print(f"{row['n_parallel']:9} | {row['prompt_ratio']:13.3f} | {row['decode_ratio']:17.3f}")


if __name__ == "__main__":
    main()
