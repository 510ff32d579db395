"""How long the program takes to start, against a bare two-command Typer app, in one run.

    python benchmarks/startup.py [--runs 15] [--json]

Runs `--help` of both, and `list` over 100 registered models against a command of the bare
app, in turn; prints medians and their ratio. Targets: help at most 1.3, list at most 1.6.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = '''
import typer
app = typer.Typer()
@app.command()
def one(name: str = "x") -> None:
    """The first command."""
    print(name)
@app.command()
def two(count: int = 1) -> None:
    """The second command."""
    print(count)
app()
'''


def fill(home: Path, count: int) -> None:
    """Register `count` models, each a small file."""
    from localllm.refs import ModelRef
    from localllm.registry import Arrival, Registry, Staged

    registry = Registry(home)
    for number in range(count):
        path = home / f"{number}.tmp"
        home.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % number)
        name = f"org/model-{number}:Q4_K_M"
        staged = Staged(path, f"model-{number}.gguf", path.stat().st_size, None, "weights")
        registry.add(
            Arrival(
                name, ModelRef.parse(name), "gguf", "hf", "org", f"model-{number}", (staged,),
                variant="Q4_K_M", architecture="llama", file_type="Q4_K_M", n_params=7 * 10**9,
            )
        )  # fmt: skip


def once(command: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def compare(ours: list[str], bare: list[str], env: dict[str, str], runs: int) -> dict[str, float]:
    once(ours, env), once(bare, env)
    pairs = [(once(ours, env), once(bare, env)) for _ in range(runs)]
    a, b = statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)
    ratio = statistics.median(p[0] / p[1] for p in pairs)
    return {"localllm_s": round(a, 4), "bare_s": round(b, 4), "ratio": round(ratio, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, script = Path(folder, "home"), Path(folder, "bare.py")
        script.write_text(BARE)
        fill(home, 100)
        env = {**os.environ, "LOCALLLM_HOME": str(home)}
        program = [sys.executable, "-m", "localllm"]
        bare = [sys.executable, str(script)]
        figures = {
            "help": compare([*program, "--help"], [*bare, "--help"], env, given.runs),
            "list_100": compare([*program, "list"], [*bare, "one"], env, given.runs),
        }
    if given.json:
        print(json.dumps(figures))
        return
    for name, row in figures.items():
        print(f"{name:9} {row['localllm_s']:.3f} s, bare {row['bare_s']:.3f} s, {row['ratio']:.2f}")


if __name__ == "__main__":
    main()
