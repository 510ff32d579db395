"""Wall time and peak memory of `localllm quantize` against llama-quantize.

    python benchmarks/quantize_speed.py F16.gguf [TYPE...] [--rounds 3] [--threads N]
        [--peer llama-quantize] [--json]

Both make the same file from the same source in turn, round after round, so that a noisy machine
is noisy for both; the ratio is the median of the rounds' own. `engine` is the engine's part
alone (localllm.engine.quantize in a fresh process): the command adds the plan, the check of
what was written, its sha256 and the registry. Peak memory is the largest sum over the
process and its children: `private` counts what is theirs alone (USS), `resident` also the pages
of the mapped source (RSS). The project wants at most 1.05 of each for files of a gigabyte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import Any


@dataclass(frozen=True)
class Cost:
    wall_s: float
    private_bytes: int
    resident_bytes: int


def run(command: list[str], env: dict[str, str]) -> Cost:
    """Run `command` to its end and look at its memory 50 times a second. The disk is idle when it
    begins; what it leaves to be written at its end is not counted."""
    import psutil

    os.sync()  # what the one before left to be written is not this one's
    begun = time.perf_counter()
    child = subprocess.Popen(command, env=env, stdout=DEVNULL, stderr=DEVNULL)
    peak = [0, 0]

    def watch() -> None:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            try:
                family = [process, *process.children(recursive=True)]
                full = [p.memory_full_info() for p in family]
            except psutil.Error:
                continue
            peak[0] = max(peak[0], sum(int(m.uss) for m in full))
            peak[1] = max(peak[1], sum(int(m.rss) for m in full))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = child.wait()
    wall_s = time.perf_counter() - begun
    watcher.join()
    if code:
        raise SystemExit(f"{command[0]} ended with {code}: {' '.join(command)}")
    return Cost(wall_s, *peak)


ENGINE = """
import sys
from pathlib import Path
from localllm.engine.quantize.quantize import QuantizeOptions, quantize
source, out, kind, threads = sys.argv[1:]
quantize(Path(source), Path(out), QuantizeOptions(kind, n_threads=int(threads)))
"""


def one_round(source: Path, kind: str, peer: str, threads: int, folder: Path) -> dict[str, Cost]:
    home = folder / "home"
    env = {**os.environ, "LOCALLLM_HOME": str(home)}
    # a model of the registry has its digest from its arrival
    program = [sys.executable, "-m", "localllm"]
    subprocess.run([*program, "pull", str(source), "--json"], env=env, check=True, stdout=DEVNULL)
    model = json.loads(subprocess.check_output([*program, "list", "--json"], env=env))
    registered = model["data"][0]["name"]
    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    name = "made"
    costs = {
        "llama-quantize": run([peer, str(source), str(theirs), kind, str(threads)], env),
        "engine": run(
            [sys.executable, "-c", ENGINE, str(source), str(ours), kind, str(threads)], env
        ),
        "localllm": run(
            [*program, "quantize", registered, kind, "-t", str(threads), "--name", name,
             "--progress", "none"], env,
        ),
    }  # fmt: skip
    made = next(home.rglob("made.gguf"))
    if not tensors(theirs) == tensors(ours) == tensors(made):
        raise SystemExit(f"{kind}: the tensors differ")
    return costs


def tensors(path: Path) -> dict[str, tuple[str, str]]:
    """Type and digest of every tensor."""
    from localllm.formats.gguf import read_header

    header, found = read_header(path), {}
    with path.open("rb") as file:
        for tensor in header.tensors.values():
            file.seek(header.data_offset + tensor.offset)
            data = file.read(tensor.size_bytes)
            found[tensor.name] = (tensor.type.name, hashlib.sha256(data).hexdigest())
    return found


def ratios(rounds: list[dict[str, Cost]], who: str) -> dict[str, float]:
    """Median over the rounds of each cost over llama-quantize's."""
    found = {}
    for field in ("wall_s", "private_bytes", "resident_bytes"):
        each = [getattr(r[who], field) / getattr(r["llama-quantize"], field) for r in rounds]
        found[field.removesuffix("_s").removesuffix("_bytes")] = statistics.median(each)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("types", nargs="*", default=["Q8_0", "Q4_K_M"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peer", default="llama-quantize")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    for kind in given.types:
        rounds = []
        for _ in range(given.rounds):
            with tempfile.TemporaryDirectory() as folder:
                rounds.append(
                    one_round(given.source, kind, given.peer, given.threads, Path(folder))
                )
        results[kind] = {
            "ratios": {who: ratios(rounds, who) for who in ("engine", "localllm")},
            "rounds": [{who: asdict(cost) for who, cost in r.items()} for r in rounds],
        }
        if not given.json:
            peer = statistics.median(r["llama-quantize"].wall_s for r in rounds)
            print(f"{kind}: llama-quantize {peer:.2f} s")
            for who, found in results[kind]["ratios"].items():
                print(f"  {who:9}" + "  ".join(f"{k} {v:.3f}x" for k, v in found.items()))
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
