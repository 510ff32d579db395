"""Figures, time and memory of `localllm quality` beside llama-perplexity's.

    python benchmarks/quality.py CANDIDATE.gguf --base BASE.gguf [--text FILE] [--chunks 16]
        [--ctx 512] [--threads N] [--rounds 1] [--perplexity llama-perplexity] [--peer-yields]
        [--json]

In every round, one after the other, on the same tokens with the same threads:

  alone    perplexity of the candidate: `localllm quality CANDIDATE`, `llama-perplexity`
  against  base and candidate compared: `localllm quality CANDIDATE --base BASE`, and
           `llama-perplexity --kl-divergence-base FILE` on the base, then `--kl-divergence` on
           the candidate, whose file is removed at the end

Times are of whole processes, memory is the largest peak of one. The project wants every figure
within 0.1 % and at most 1.25 times the time. Figures of the base's perplexity are compared as
llama-perplexity's 16-bit file has them (`as_stored`): what it floors changes them by more. The
differences shown are beyond what it rounds: figures to six decimals, changes of probabilities to
0.001 %, and, through its file's 16-bit logits, single tokens' divergences by about 2e-6.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localllm.engine.threads import default_threads

_PERCENTILES = {
    "Maximum": "maximum", "99.9%": "p99_9", "99.0%": "p99", "95.0%": "p95", "90.0%": "p90",
    "75.0%": "p75", "Median": "median", "25.0%": "p25", "10.0%": "p10", "5.0%": "p5",
    "1.0%": "p1", "0.1%": "p0_1", "Minimum": "minimum",
}  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """One process."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    out: str
    err: str


def run(command: Sequence[str | Path], env: dict[str, str] | None = None) -> Ran:
    """Run to the end; its processor time and peak resident memory (mapped weights included) are
    sampled every 20 ms."""
    import psutil

    begun = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, encoding="utf-8", env=env,
    )  # fmt: skip
    peak, used = 0, 0.0
    watched = psutil.Process(process.pid)
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak, used
        while not ended.wait(0.02):
            try:
                peak = max(peak, watched.memory_info().rss)
                used = sum(watched.cpu_times()[:2])
            except psutil.Error:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    seconds = time.perf_counter() - begun
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {err[-2000:]}")
    return Ran(seconds, used, peak, out, err)


class Duel:
    """The commands of both sides."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.text = options.text or self._built_in()
        self.env = {**os.environ, "LOCALLLM_HOME": str(folder / "home")}
        self.shared = ["-t", str(options.threads), "-c", str(options.ctx)]

    def _built_in(self) -> Path:
        from localllm.texts import evaluation

        path = self.folder / "evaluation.txt"
        path.write_text(evaluation().content, encoding="utf-8", newline="")
        return path

    def ours(self, *more: str | Path) -> tuple[Ran, dict[str, Any]]:
        chunks = ["--chunks", str(self.options.chunks)] if self.options.chunks else []
        ran = run(
            [sys.executable, "-m", "localllm", "quality", self.options.model, *more, "--text",
             self.text, *chunks, *self.shared, "-ngl", "0", "--json", "--progress", "none"],
            self.env,
        )  # fmt: skip
        row: dict[str, Any] = json.loads(ran.out)["data"]["rows"][0]
        return ran, row

    def theirs(self, model: Path, *more: str | Path) -> Ran:
        chunks = ["--chunks", str(self.options.chunks)] if self.options.chunks else []
        env = {**os.environ, "GOMP_SPINCOUNT": "0"} if self.options.peer_yields else None
        return run(
            [self.options.perplexity, "-m", model, "-f", self.text, *chunks, *self.shared,
             "-ngl", "0", *more], env,
        )  # fmt: skip


def one_round(duel: Duel, options: argparse.Namespace) -> dict[str, Any]:
    """Both tasks on both sides."""
    file = duel.folder / "base.kld"
    alone, row = duel.ours()
    peer = duel.theirs(options.model)
    against, compared = duel.ours("--base", options.base)
    first = duel.theirs(options.base, "--kl-divergence-base", file)
    file_bytes = file.stat().st_size
    second = duel.theirs(options.model, "--kl-divergence", "--kl-divergence-base", file)
    file.unlink()
    printed = figures_printed(second.out)
    final = re.search(r"PPL = ([\d.]+) \+/- ([\d.]+)", peer.out + peer.err)
    assert final is not None
    printed["alone PPL"] = (float(final[1]), float(final[2]))
    return {
        "seconds": {"alone": alone.seconds, "peer alone": peer.seconds,
                    "against": against.seconds, "peer against": first.seconds + second.seconds},
        "cpu_seconds": {"alone": alone.cpu_seconds, "peer alone": peer.cpu_seconds,
                        "against": against.cpu_seconds,
                        "peer against": first.cpu_seconds + second.cpu_seconds},
        "peak_bytes": {"alone": alone.peak_bytes, "peer alone": peer.peak_bytes,
                       "against": against.peak_bytes,
                       "peer against": max(first.peak_bytes, second.peak_bytes)},
        "peer_file_bytes": file_bytes,
        "figures": differences(row, compared, printed),
        "clustered": {
            "kld": compared["figures"]["divergence"]["mean_kld"]["clustered_error"],
            "kld_by_token": compared["figures"]["divergence"]["mean_kld"]["standard_error"],
        },
    }  # fmt: skip


def figures_printed(page: str) -> dict[str, tuple[float, float]]:
    """Name to value and error of everything that llama-perplexity --kl-divergence prints."""
    page = page[page.index("====== Perplexity statistics") :]
    found = re.findall(r"^ *(.+?) *: *(-?[\d.]+)%?(?: ± *([\d.]+))?", page, re.MULTILINE)
    return {" ".join(n.split()): (float(v), float(e or "nan")) for n, v, e in found}


def differences(
    alone: dict[str, Any], compared: dict[str, Any], printed: dict[str, tuple[float, float]]
) -> dict[str, dict[str, float]]:
    """Ours, theirs, and the relative difference beyond what rounding to print explains."""
    d = compared["figures"]["divergence"]
    stored = d["as_stored"]
    estimates = {
        "alone PPL": (alone["figures"]["perplexity"], 1, 1e-4),
        "Mean PPL(Q)": (compared["figures"]["perplexity"], 1, 1e-6),
        "Mean PPL(base)": (stored["base_perplexity"], 1, 1e-6),
        "Mean ln(PPL(Q)/PPL(base))": (stored["ln_ratio"], 1, 1e-6),
        "Mean PPL(Q)/PPL(base)": (stored["ratio"], 1, 1e-6),
        "Mean PPL(Q)-PPL(base)": (stored["difference"], 1, 1e-6),
        "Mean KLD": (d["mean_kld"], 1, 1e-6),
        "Mean Δp": (d["mean_p_diff"], 100, 1e-3),
        "RMS Δp": (d["rms_p_diff"], 100, 1e-3),
        "Same top p": (d["same_top"], 100, 1e-3),
    }
    rows = {}
    for name, (estimate, scale, unit) in estimates.items():
        value, error = printed[name]
        rows[name] = _row(scale * estimate["value"], value, unit)
        rows[f"{name} ±"] = _row(scale * estimate["standard_error"], error, 10 * unit)
    for shown, field in _PERCENTILES.items():
        for kind, key, scale, unit in (("KLD", "kld", 1, 3e-6), ("Δp", "p_diff", 100, 1e-3)):
            if (name := f"{shown} {kind}") in printed:
                rows[name] = _row(scale * d[key][field], printed[name][0], unit)
    return rows


def _row(ours: float, theirs: float, unit: float) -> dict[str, float]:
    beyond = max(0.0, abs(ours - theirs) - unit)
    return {
        "ours": ours,
        "theirs": theirs,
        "relative": abs(ours - theirs) / abs(theirs) if theirs else abs(ours),
        "beyond_rounding": beyond / abs(theirs) if theirs else beyond,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--perplexity", default=shutil.which("llama-perplexity"))
    parser.add_argument("--peer-yields", action="store_true",
                        help="GOMP_SPINCOUNT=0 for llama-perplexity too, as localllm has it on "
                        "few cores: on a busy machine it is slow without")  # fmt: skip
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.perplexity:
        raise SystemExit("no llama-perplexity on PATH: name it with --perplexity")
    with tempfile.TemporaryDirectory() as folder:
        duel = Duel(options, Path(folder))
        rounds = [one_round(duel, options) for _ in range(options.rounds)]
    ratios = {
        task: statistics.median(r["seconds"][task] / r["seconds"][f"peer {task}"] for r in rounds)
        for task in ("alone", "against")
    }
    if options.json:
        print(json.dumps({"rounds": rounds, "ratio_to_peer": ratios}, indent=2))
        return
    show(rounds, ratios)


def show(rounds: list[dict[str, Any]], ratios: dict[str, float]) -> None:
    print(f"{'figure':32} {'ours':>14} {'theirs':>14} {'difference':>11}")
    for name, row in rounds[-1]["figures"].items():
        said = f"{100 * row['beyond_rounding']:.4f} %"
        print(f"{name:32} {row['ours']:14.6f} {row['theirs']:14.6f} {said:>11}")
    worst = max(rounds[-1]["figures"].items(), key=lambda pair: pair[1]["beyond_rounding"])
    print(f"largest difference beyond rounding: {100 * worst[1]['beyond_rounding']:.4f} % "
          f"({worst[0]})")  # fmt: skip
    for task, ratio in ratios.items():
        seconds = " ".join(f"{r['seconds'][task]:.1f}/{r['seconds'][f'peer {task}']:.1f}"
                           for r in rounds)  # fmt: skip
        last = rounds[-1]
        ours, theirs = (last["peak_bytes"][name] / 2**20 for name in (task, f"peer {task}"))
        cpu = last["cpu_seconds"][task] / last["cpu_seconds"][f"peer {task}"]
        print(f"{task}: {ratio:.3f} of llama-perplexity's time (s: {seconds}), {cpu:.3f} of its "
              f"processor time; peak memory {ours:.0f} MiB, its {theirs:.0f} MiB")  # fmt: skip
    errors = rounds[-1]["clustered"]
    print(f"its file of base logits: {rounds[-1]['peer_file_bytes'] / 2**30:.2f} GiB; standard "
          f"error of the mean KLD by context {errors['kld']:.4g}, by token "
          f"{errors['kld_by_token']:.4g}")  # fmt: skip


if __name__ == "__main__":
    main()
