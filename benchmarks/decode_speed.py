"""Decode speed of the engine against llama.cpp's own.

    python benchmarks/decode_speed.py MODEL.gguf [--tokens 128] [--rounds 5] [--threads N] [--json]

What is measured in every round, one after the other, so that a noisy machine is noisy for all:

  bare      a loop of llama_decode and llama_synchronize on random tokens through ctypes, which
            is llama-bench's tg test: no sampling, no text
  bench     llama-bench itself, if it is on PATH (same file, threads, tokens)
  measure   engine.measure.time_generation, what `localllm bench` reports
  greedy    a whole streamed answer: sampling in C at temperature 0, UTF-8, stop strings
  default   the same with the default sampler chain (top_k, top_p, min_p, temperature, draw)

The ratio is greedy, default and measure over the peer (llama-bench, else bare), as the median
of the rounds' own ratios. The project wants at least 0.97.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from localllm.engine import native
from localllm.engine.context import Context
from localllm.engine.measure import time_generation
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions, LoadOptions
from localllm.engine.session import Session
from localllm.engine.threads import default_threads
from localllm.generation import Sampling

PROMPT = "Once upon a time, in a town by the sea, there lived a clockmaker who"


def bare(context: Context, n_tokens: int) -> float:
    """Tokens per second of the plainest loop over the binding."""
    llama, handle = native.lib(), context.handle
    n_vocab = context.model.tokenizer.n_vocab
    context.clear()
    token = (ctypes.c_int32 * 1)(context.model.tokenizer.bos or 0)
    begun = time.perf_counter()
    for i in range(n_tokens):
        llama.llama_decode(handle, llama.llama_batch_get_one(token, 1))
        llama.llama_synchronize(handle)
        token[0] = i * 7919 % n_vocab
    return n_tokens / (time.perf_counter() - begun)


def measured(context: Context, n_tokens: int) -> float:
    (nanoseconds,) = time_generation(context, n_tokens, 1)
    return n_tokens / (nanoseconds / 1e9)


def streamed(context: Context, n_tokens: int, temperature: float, seed: int) -> float:
    """Tokens per second after the first of each answer; as many answers as it takes."""
    session = Session(context)
    session.reset()
    prompt = session.tokenizer.encode(PROMPT)
    n_decoded, decode_s = 0, 0.0
    while n_decoded < n_tokens:
        sampling = Sampling(
            temperature=temperature,
            seed=seed,
            max_tokens=n_tokens - n_decoded + 1,
            stop=("\x00never",),
        )
        stream = session.stream(prompt, sampling)
        for _ in stream:
            pass
        assert stream.accounting is not None
        if stream.accounting.completion_tokens < 2:
            raise SystemExit("this model ends at once; give one that writes on")
        n_decoded += stream.accounting.completion_tokens - 1
        decode_s += stream.accounting.decode_s
        seed += 1000
    return n_decoded / decode_s


def llama_bench(program: str, path: Path, n_tokens: int, threads: int) -> dict[str, Any]:
    """llama-bench's own row for tg."""
    done = subprocess.run(
        [program, "-m", str(path), "-p", "0", "-n", str(n_tokens), "-t", str(threads),
         "-r", "1", "-o", "json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    row: dict[str, Any] = json.loads(done.stdout)[0]
    return row


def run(path: Path, n_tokens: int, rounds: int, threads: int) -> dict[str, Any]:
    program = shutil.which("llama-bench")
    speeds: dict[str, list[float]] = {}
    builds = set()
    with Model.load(path, LoadOptions()) as model:
        options = ContextOptions(n_ctx=n_tokens + 128, n_threads=threads)
        with Context(model, options) as context:
            measured(context, 8)
            for i in range(rounds):
                row = {"bare": bare(context, n_tokens), "measure": measured(context, n_tokens)}
                if program:
                    bench = llama_bench(program, path, n_tokens, threads)
                    row["bench"] = bench["avg_ts"]
                    builds.add(bench["build_commit"])
                row["greedy"] = streamed(context, n_tokens, 0.0, i)
                row["default"] = streamed(context, n_tokens, 0.8, i)
                for name, speed in row.items():
                    speeds.setdefault(name, []).append(speed)
    peer = "bench" if program else "bare"
    ratios = {
        name: statistics.median(a / b for a, b in zip(speeds[name], speeds[peer], strict=True))
        for name in ("measure", "greedy", "default")
    }
    return {
        "model": path.name,
        "n_tokens": n_tokens,
        "rounds": rounds,
        "n_threads": threads,
        "peer": "llama-bench" if program else "bare low-level loop",
        "peer_builds": sorted(builds),
        "median_tps": {name: statistics.median(values) for name, values in speeds.items()},
        "samples_tps": speeds,
        "ratio_to_peer": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = run(options.model, options.tokens, options.rounds, options.threads)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['model']}: {options.tokens} tokens, {options.threads} threads, "
          f"median of {options.rounds} rounds")  # fmt: skip
    for name, speed in result["median_tps"].items():
        ratio = result["ratio_to_peer"].get(name)
        print(
            f"  {name:8} {speed:8.2f} tokens/s"
            + (f"   {ratio:.3f} of {result['peer']}" if ratio else "")
        )


if __name__ == "__main__":
    main()
