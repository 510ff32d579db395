"""One gate of unchanged code and one of really slower code: the same model on fewer threads.

    python benchmarks/gate_for_real.py MODEL.gguf [--threads 2] [--slower 1] [--budget 4m]

A baseline is measured with `--threads`; then `localllm bench gate` is run twice against it: with
the same threads, which has to end with 0, and with `--slower`, which has to end with 5 (where
fewer threads are slower at all: memory-bound generation may not be). Prints one JSON line each.
gate_alarms.py plays hundreds of gates on recorded samples instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def localllm(home: Path, *words: str) -> tuple[int, Any]:
    """The exit code, and what --json printed."""
    done = subprocess.run(
        [sys.executable, "-m", "localllm", *words, "--json", "--progress", "none"],
        env={**os.environ, "LOCALLLM_HOME": str(home)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)["data"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slower", type=int, default=1)
    parser.add_argument("--budget", default="4m")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        localllm(home, "pull", "--in-place", str(options.model.resolve()))
        name = options.model.stem
        base = ("bench", name, "-p", "128", "-n", "32", "-t", str(options.threads), "--tag", "base")
        if localllm(home, *base)[0]:
            print("the baseline could not be measured", file=sys.stderr)
            return 1
        for threads, wanted in ((options.threads, 0), (options.slower, 5)):
            code, data = localllm(
                home, "bench", "gate", name, "--baseline", "base", "-t", str(threads),
                "--budget", options.budget,
            )  # fmt: skip
            rows = [
                {"test": row["test"], "outcome": row["outcome"], "loss": row["loss"]}
                for report in (data if isinstance(data, list) else [data])
                for row in report["rows"]
            ]
            wrong += code != wanted
            print(json.dumps({"threads": threads, "exit": code, "wanted": wanted, "rows": rows}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
