"""A server under thousands of mixed requests, many of them faulty: nothing leaks, nothing is wrong.

    python benchmarks/serve_soak.py MODEL.gguf [MODEL.gguf ...] [--requests 10000] [--clients 48]

Each of some prompts is asked alone first, greedily, with the likeliest tokens at each place. Then
clients ask them over both APIs, whole and streamed, some reading slowly; others leave in the middle
of an answer or of their own request, send what is no JSON or no HTTP, too much, or for a model that
is not there. Every answer that came whole is compared with the one given alone: where they part,
two tokens must have been equally likely there (batches of other shapes add in another order), or
it counts as wrong. Answers to a JSON schema, another one each time, must keep to it. Then
--connections clients ask at the same moment. At the end the server must have nobody at work, and as
many threads and open files as at the beginning.

Printed: what was asked and how it ended, wrong answers, threads, open files and memory before and
after. Status 1 if anything is wrong or leaked, or if memory grew by more than --growth in the
second half, without the conversations that the server keeps for later (it says how much, and has a
bound for them). Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soak_asking import TIE, WORDS, Client, Prompt, Soak

SLICES = 8  # of the requests; memory is looked at after each


@dataclass
class Standing:
    """What the server holds."""

    threads: int
    files: int
    rss_bytes: int
    saved_bytes: int  # of that: conversations kept for reuse


async def standing(client: Client, pid: int) -> Standing:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    rss = int(status["VmRSS"].split()[0]) * 1024
    saved = [line.rpartition(" ")[2] for line in (await client.metrics()).splitlines()
             if line.startswith("localllm_saved_bytes")]  # fmt: skip
    n_files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    return Standing(int(status["Threads"]), n_files, rss, int(sum(map(float, saved))))


async def settled(client: Client) -> bool:
    """Whether nobody is at work any more, within a minute."""
    for _ in range(300):
        text = await client.metrics()
        busy = [
            float(line.rpartition(" ")[2]) for line in text.splitlines()
            if line.startswith(("localllm_running", "localllm_waiting"))
        ]  # fmt: skip
        if not any(busy) and "\nlocalllm_requests_open 1\n" in text:
            return True
        await asyncio.sleep(0.2)
    return False


async def scene(options: argparse.Namespace, port: int, pid: int, names: list[str]) -> Any:
    rng = random.Random(options.seed)
    prompts = [
        Prompt(
            name,
            " ".join(rng.choices(WORDS, k=rng.randint(2, 40))),
            rng.randint(4, 32),
            tie=options.tie,
        )
        for name in names
        for _ in range(options.prompts)
    ]
    soak = Soak(port, prompts, options.seed)
    await soak.alone()
    # After a tenth its caches and threads are there, and the rush has widened all buffers.
    n_warm = max(options.clients, options.requests // 10)
    await soak.run(n_warm, options.clients)
    await soak.rush(options.connections)
    quiet = await settled(soak.client)
    found, begun = [await standing(soak.client, pid)], time.perf_counter()
    for _ in range(SLICES):
        await soak.run((options.requests - n_warm) // SLICES, options.clients)
        found.append(await standing(soak.client, pid))
    took = time.perf_counter() - begun
    await soak.rush(options.connections)
    quiet = await settled(soak.client) and quiet
    await asyncio.sleep(0.5)
    return soak, [*found, await standing(soak.client, pid)], quiet, took


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--connections", type=int, default=2000, help="at the same moment")
    parser.add_argument("--prompts", type=int, default=24, help="different ones, for each model")
    parser.add_argument("--tie", type=float, default=TIE, help="gap of equally likely tokens")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--growth", type=float, default=32.0, help="MiB that memory may grow by in the second half"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    command = [
        sys.executable, "-m", "localllm", "serve", *map(str, options.models), "--port", "0",
        "--json", "--progress", "none", "--slots", str(options.slots), "--ctx", str(options.ctx),
        "--threads", str(options.threads), "--max-body", "1", "--max-waiting", "1000",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    if not ready["ok"]:
        raise SystemExit(ready["error"]["message"])
    try:
        data = ready["data"]
        soak, stood, quiet, took = asyncio.run(
            scene(options, data["port"], data["pid"], data["models"])
        )
    finally:
        process.terminate()
        status = process.wait(60)
    rss = [one.rss_bytes / 2**20 for one in stood]
    saved = [one.saved_bytes / 2**20 for one in stood]
    own = [whole - part for whole, part in zip(rss, saved, strict=True)]
    before, after, grew = stood[0], stood[-1], own[-1] - own[len(own) // 2]
    result = {
        "asked": dict(sorted(soak.found.items())), "wrong": soak.wrong[:20],
        "n_wrong": len(soak.wrong), "quiet": quiet, "took_s": took, "exit_status": status,
        "threads": [before.threads, after.threads], "files": [before.files, after.files],
        "rss_mib": [round(one, 1) for one in rss], "saved_mib": [round(one, 1) for one in saved],
        "grew_mib": grew,
    }  # fmt: skip
    good = (
        not soak.wrong and quiet and status == 0 and after.threads <= before.threads
        and after.files <= before.files and grew <= options.growth
    )  # fmt: skip
    print(json.dumps(result | {"good": good}, indent=None if options.json else 2))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
