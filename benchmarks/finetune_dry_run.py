"""What `finetune --dry-run` says a run will take, against what the run then takes.

    python benchmarks/finetune_dry_run.py MODEL.gguf [--ways WAY...] [--rows 48] [--tokens 256]
        [--threads N] [--cpu-seconds] [--json]

Each way is run twice in processes of their own: with `--dry-run`, then in earnest, in a home that
is thrown away. Rows are docstrings of Python's library (see finetune_speed.py). Time is of the
whole command without the interpreter's start and imports, memory the process's largest resident
set. The project wants both within 25 %. `--cpu-seconds` lets both count seconds of the processor
in place of the clock's: for a machine that others use too. Not on Windows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from finetune_speed import docstrings

WAYS: dict[str, list[str]] = {
    "lora": [],
    "lora dense": ["--base-weights", "dense"],
    "full": ["--method", "full", "--lr", "1e-5"],
    "dpo": ["--objective", "dpo"],
    "long rows": [],
}
CHILD = """
import sys, time
if sys.argv.pop(1) == "cpu":
    time.perf_counter = time.process_time
import localllm.finetune.cli
began = time.perf_counter()
from localllm.cli import main
code = main(sys.argv[1:])
print("seconds:", time.perf_counter() - began, file=sys.stderr)
sys.exit(code)
"""


def data_of(way: str, args: argparse.Namespace, folder: Path) -> tuple[Path, int]:
    """Rows for `way` and their longest length in tokens, about."""
    whole = folder / "all.jsonl"
    docstrings(whole)
    rows = [json.loads(line) for line in whole.read_text("utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    tokens = args.tokens * 4 if way == "long rows" else args.tokens
    # about three letters a token of code; every length below the longest
    fitting = [r for r in rows if tokens < len(r["prompt"] + r["completion"]) < 3 * tokens]
    chosen = fitting[: args.rows // 4 if way == "long rows" else args.rows]
    if way == "dpo":
        others = [row["completion"] for row in chosen[1:] + chosen[:1]]
        chosen = [
            {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other}
            for row, other in zip(chosen, others, strict=True)
        ]
    path = folder / f"{way.replace(' ', '-')}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chosen), "utf-8")
    return path, tokens


def run(args: argparse.Namespace, words: list[str], home: Path) -> tuple[dict[str, Any], float]:
    """The command's data with `hwm_bytes`, and its seconds."""
    clock = "cpu" if args.cpu_seconds else "wall"
    command = [sys.executable, "-W", "ignore", "-c", CHILD, clock, "finetune", *words, "--json",
               "--progress", "none"]  # fmt: skip
    with (home / "out").open("w+") as out, (home / "err").open("w+") as err:
        child = subprocess.Popen(
            command, stdout=out, stderr=err, env={**os.environ, "LOCALLLM_HOME": str(home / "llm")}
        )
        _, status, used = os.wait4(child.pid, 0)
        out.seek(0), err.seek(0)
        said, told = out.read(), err.read()
    if status or '"ok": true' not in said:
        sys.exit(f"{' '.join(words)} failed:\n{said[-1000:]}{told[-1000:]}")
    seconds = next(x for x in told.splitlines() if x.startswith("seconds: ")).split()[1]
    unit = 1 if sys.platform == "darwin" else 1024
    return {**json.loads(said)["data"], "hwm_bytes": used.ru_maxrss * unit}, float(seconds)


def measured(way: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    path, tokens = data_of(way, args, folder)
    words = [str(args.model), "--data", str(path), "--name", "t:dry", "--max-length", str(tokens),
             "--threads", str(args.threads), "--epochs", "2", "--held-out", "10%",
             *WAYS[way]]  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        said, _ = run(args, [*words, "--dry-run"], Path(home))
        took, seconds = run(args, words, Path(home))
    return {
        "said_s": said["total_s"],
        "took_s": seconds,
        "said_bytes": said["peak_bytes"],
        "took_bytes": took["hwm_bytes"],
        "parts_said": {key: said[key] for key in ("load_s", "training_s", "judging_s")},
        "trained_s": took["learned"]["seconds"],
        "planned_bytes": sum(said["planned"].values()),
        "precision": [said["precision"], took["learned"]["precision"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-seconds", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.model = args.model.resolve()
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for way in args.ways:
            found[way] = measured(way, args, Path(folder))
            if not args.json:
                show(way, found[way], first=len(found) == 1)
    if args.json:
        print(json.dumps(found))


def show(way: str, one: dict[str, Any], *, first: bool) -> None:
    if first:
        print(f"{'':12}{'said s':>8}{'took s':>8}{'':>7}{'said MiB':>10}{'took MiB':>10}{'':>7}"
              f"{'planned MiB':>12}")  # fmt: skip
    time, memory = one["said_s"] / one["took_s"], one["said_bytes"] / one["took_bytes"]
    mib = [one[key] / 2**20 for key in ("said_bytes", "took_bytes", "planned_bytes")]
    print(f"{way:12}{one['said_s']:8.1f}{one['took_s']:8.1f}{time:7.2f}{mib[0]:10.0f}"
          f"{mib[1]:10.0f}{memory:7.2f}{mib[2]:12.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
