"""The engine's scheduler under load, against llama-server built from the same llama.cpp.

    python benchmarks/serving_load.py MODEL.gguf [--llama-server PATH] [--parallel 1,4,16,64]
    python benchmarks/serving_load.py MODEL.gguf --http   (the whole of `localllm serve`, over HTTP)
    python benchmarks/serving_load.py MODEL.gguf --url http://127.0.0.1:8000/v1   (any server)

Closed loop: so many clients, each asking again as soon as it is answered, prompts of words drawn
by a seed, no two alike, answers of a fixed length (the end of generation is ignored). Both have
the same slots, context, threads and cache type, GOMP_SPINCOUNT and sampling, and live side by
side; rounds alternate, so that a noisy machine is noisy for both. llama-server is asked over HTTP
by one thread that only looks for the first and the last chunk; ours is asked in its own process,
or with --http in the same way.

Printed: tokens generated per second of all clients together, time to first text (p50, p95),
time between pieces (p50, p95), processor time a token (which a busy machine changes least), peak
resident memory, and the ratio of ours to the peer, each with a 95 % interval from pairs of rounds
drawn again (a bootstrap: both peers answer the same requests in a round). Wanted: throughput at
least 1.0, p95 time to first token at most 1.1, memory at most 1.1.

Every number of clients is warmed up by one short round that does not count, since `localllm`
learns how many sequences to compute at once (--warm 0 leaves it out).

    python benchmarks/serving_load.py MODEL.gguf --http --parallel 64 --per-client 1 --rounds 4

takes 64 clients in less than ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving_clients import Asked, HttpPeer, InProcess, Measured, Peer

COMMON = """
the and to of in a is that for it was on with as his they at be this from have or by one had not
but what all were when we there can an your which their said if do will each about how up out them
then she many some so these would other into has more her two like him see time could no make than
first been its who now people my made over did down only way find use may water long little very
after words called just where most know get through back much before go good new write our used me
man too any day same right look think also around another came come work three word must because
does part even place well such here take why things help put years different away again off went
old number great tell men say small every found still between
"""
WORDS = COMMON.split()
_DRAWS = 400


def requests(n: int, n_prompt: int, n_gen: int, seed: int, shared: int) -> list[Asked]:
    """`n` prompts of about `n_prompt` words (half to one and a half times as many), the first
    `shared` of them the same for all."""
    rng = random.Random(seed)
    system = random.Random(0).choices(WORDS, k=shared)
    made = []
    for _ in range(n):
        own = rng.choices(WORDS, k=rng.randint(max(1, n_prompt // 2), n_prompt * 3 // 2))
        made.append(Asked(" ".join(system + own), rng.randint(n_gen // 2, n_gen * 3 // 2)))
    return made


def percentile(values: list[float], share: float) -> float:
    """By linear interpolation, as numpy's default."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summary(rounds: list[Measured]) -> dict[str, float]:
    first = [s for one in rounds for s in one.first_s]
    between = [s for one in rounds for s in one.between_s]
    return {
        "tokens_s": sum(r.n_tokens for r in rounds) / sum(r.total_s for r in rounds),
        "cpu_ms_token": 1e3 * sum(r.cpu_s for r in rounds) / sum(r.n_tokens for r in rounds),
        "prompt_tokens_s": sum(r.n_prompt_tokens for r in rounds) / sum(r.total_s for r in rounds),
        "first_p50_s": percentile(first, 0.5),
        "first_p95_s": percentile(first, 0.95),
        "between_p50_s": percentile(between, 0.5) if between else 0.0,
        "between_p95_s": percentile(between, 0.95) if between else 0.0,
    }


RATIOS = {
    "throughput": lambda rounds: summary(rounds)["tokens_s"],
    "cpu": lambda rounds: summary(rounds)["cpu_ms_token"],
    "first_p50": lambda rounds: summary(rounds)["first_p50_s"],
    "first_p95": lambda rounds: summary(rounds)["first_p95_s"],
    "between_p95": lambda rounds: summary(rounds)["between_p95_s"],
}


@dataclass(frozen=True)
class Ratio:
    """Ours to theirs over all rounds, with 95 % of what other such rounds would give."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(
    ours: list[Measured], theirs: list[Measured], figure: Callable[[list[Measured]], float]
) -> Ratio | None:
    """Of `figure`, which is taken of all rounds together; None where the peer has none.

    The interval is the percentile bootstrap over pairs of rounds. One round has no interval: both
    ends are the value.
    """
    below = figure(theirs)
    if not below:
        return None
    rng = random.Random(0)
    drawn = []
    for _ in range(_DRAWS):
        picked = rng.choices(range(len(ours)), k=len(ours))
        drawn.append(figure([ours[i] for i in picked]) / figure([theirs[i] for i in picked]))
    return Ratio(figure(ours) / below, percentile(drawn, 0.025), percentile(drawn, 0.975))


def run(peers: list[Peer], options: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for parallel in options.parallel:
        rows.append(row_of(peers, parallel, options))
        if not options.json:
            show(rows[-1], [peer.name for peer in peers])
    memory = {peer.name: peer.peak_bytes() for peer in peers}
    return {"options": vars(options), "rows": rows, "peak_bytes": memory}


def row_of(peers: list[Peer], parallel: int, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of so many clients."""
    begun = time.perf_counter()
    found: dict[str, list[Measured]] = {peer.name: [] for peer in peers}
    n = max(options.least, options.per_client * parallel)
    for peer in peers if options.warm else ():
        peer.ask(requests(n, 16, options.warm, seed=parallel, shared=0), parallel)
    for i in range(options.rounds):
        asked = requests(n, options.prompt, options.generate, 1000 * parallel + i, options.shared)
        for peer in peers if i % 2 == 0 else reversed(peers):
            found[peer.name].append(peer.ask(asked, parallel))
    row: dict[str, Any] = {"parallel": parallel, "n_requests": n * options.rounds}
    for name, rounds in found.items():
        row[name] = summary(rounds)
        row[name]["rounds_tokens_s"] = [r.n_tokens / r.total_s for r in rounds]
    if len(peers) == 2:
        ours, theirs = (found[peer.name] for peer in peers)
        row["ratios"] = {name: ratio(ours, theirs, of) for name, of in RATIOS.items()}
    row["took_s"] = time.perf_counter() - begun
    return row


def show(row: dict[str, Any], names: list[str]) -> None:
    print(f"{row['parallel']} clients, {row['n_requests']} requests, {row['took_s']:.0f} s")
    for name in names:
        one = row[name]
        print(
            f"  {name:14} {one['tokens_s']:8.1f} tokens/s   first {one['first_p50_s']:6.3f} "
            f"p95 {one['first_p95_s']:6.3f} s   between {one['between_p50_s'] * 1e3:6.1f} "
            f"p95 {one['between_p95_s'] * 1e3:6.1f} ms   "
            f"cpu {one['cpu_ms_token']:.1f} ms/token"
        )
    for name, found in row.get("ratios", {}).items():
        if found is not None:
            print(f"  ratio {name:12} {found}", flush=True)


def plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Ratio) else str(value)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--url", help="measure this OpenAI-compatible server and nothing else")
    parser.add_argument("--http", action="store_true", help="ask `localllm serve` over HTTP")
    parser.add_argument("--llama-server", default=shutil.which("llama-server"))
    parser.add_argument("--server-arg", action="append", default=[], help="for llama-server")
    parser.add_argument("--parallel", default="1,4,16,64", help="numbers of clients")
    parser.add_argument("--slots", type=int, default=0, help="0: as many as clients at most")
    parser.add_argument("--ctx", type=int, default=512, help="tokens of each slot")
    parser.add_argument("--split", action="store_true", help="a part of the cache for each slot")
    parser.add_argument("--chunk", type=int, help="tokens of our steps; our default without it")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--spin", default="0", help="GOMP_SPINCOUNT of both")
    parser.add_argument("--prompt", type=int, default=96)
    parser.add_argument("--shared", type=int, default=0, help="words that begin every prompt")
    parser.add_argument("--generate", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-client", type=int, default=2, help="requests of each in a round")
    parser.add_argument("--warm", type=int, default=12, help="tokens of the round before the first")
    parser.add_argument("--least", type=int, default=4, help="requests of a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.parallel = [int(one) for one in options.parallel.split(",")]
    options.slots = options.slots or max(options.parallel)
    if not options.threads:
        from localllm.engine.threads import default_threads

        options.threads = default_threads()
    return options


def main() -> None:
    options = arguments()
    environment = {**os.environ, "GOMP_SPINCOUNT": options.spin}
    peers: list[Peer] = []
    try:
        if options.url:
            peers.append(HttpPeer("server", options.url, None))
        else:
            ours = HttpPeer.ours if options.http else InProcess
            peers.append(ours(options, environment))
            if options.llama_server:
                peers.append(HttpPeer.start(options, environment))
        result = run(peers, options)
    finally:
        for peer in peers:
            peer.close()
    if options.json:
        print(json.dumps(result, indent=2, default=plain))
        return
    memory = result["peak_bytes"]
    for name, n_bytes in memory.items():
        print(f"peak memory of {name}: " + (f"{n_bytes / 2**20:.0f} MiB" if n_bytes else "unknown"))
    if len(memory) == 2 and all(memory.values()):
        ours, theirs = memory.values()
        print(f"  ratio {ours / theirs:.3f}")


if __name__ == "__main__":
    begun = time.perf_counter()
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error}")
