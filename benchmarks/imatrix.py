"""`localllm imatrix` against llama-imatrix on the same text: every number, and the time.

    python benchmarks/imatrix.py MODEL.gguf --peer PATH/TO/llama-imatrix
        [--text FILE] [--chunks 12] [--runs 3] [--ppl]

Both run as whole processes, in turn, loading included. Prints for each run the ratio of wall
times (ours / theirs; below 1 is faster), the worst cosine similarity of any tensor's vector, and
whether all counts agree. llama-imatrix runs with --no-ppl unless --ppl is given, which is its
default and costs it more. Exit status 1 where a cosine is below 0.9999 or the median ratio above
1.25.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from localllm import texts
from localllm.engine.threads import default_threads
from localllm.formats.imatrix import Imatrix, read_imatrix

LEAST_COSINE, MOST_RATIO = 0.9999, 1.25


def timed(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def compared(ours: Imatrix, theirs: Imatrix) -> tuple[float, str, bool]:
    """The worst cosine and its tensor, and whether the counts of all tensors are the same."""
    if set(ours.entries) != set(theirs.entries):
        raise SystemExit(f"different tensors: {set(ours.entries) ^ set(theirs.entries)}")
    worst, same = (2.0, ""), True
    for name, entry in theirs.entries.items():
        a, b = (e.squares.astype("f8") for e in (ours.entries[name], entry))
        worst = min(worst, (float(a @ b) / float((a @ a) * (b @ b)) ** 0.5, name))
        same &= bool((ours.entries[name].counts == entry.counts).all())
    return (*worst, same)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="default: the built-in calibration text")
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ppl", action="store_true", help="let the peer compute perplexity")
    args = parser.parse_args()
    ratios: list[float] = []
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        text = args.text or Path(folder) / "calibration.txt"
        if args.text is None:
            text.write_text(texts.calibration_text(), encoding="utf-8")
        ours, theirs = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
        n, threads = str(args.chunks), str(default_threads())
        environment = {**os.environ, "LOCALLLM_HOME": folder}
        we = [sys.executable, "-m", "localllm", "imatrix", str(args.model), "--text", str(text),
              "--chunks", n, "-t", threads, "--no-resume", "--out", str(ours)]  # fmt: skip
        they = [str(args.peer), "-m", str(args.model), "-f", str(text), "--chunks", n,
                "-t", threads, "-o", str(theirs), *([] if args.ppl else ["--no-ppl"])]  # fmt: skip
        for run in range(args.runs):
            pair = {"we": we, "they": they}
            order = ("we", "they") if run % 2 == 0 else ("they", "we")
            took = {who: timed(pair[who], environment) for who in order}
            ratios.append(took["we"] / took["they"])
            cosine, name, same = compared(read_imatrix(ours), read_imatrix(theirs))
            passed &= cosine >= LEAST_COSINE and same
            print(
                f"run {run + 1}: localllm {took['we']:.1f} s, llama-imatrix {took['they']:.1f} s, "
                f"ratio {ratios[-1]:.3f}; worst cosine 1 - {1 - cosine:.1e} ({name}), "
                f"counts {'equal' if same else 'DIFFERENT'}",
                flush=True,
            )
    median = statistics.median(ratios)
    print(f"median ratio {median:.3f} over {args.chunks} chunks of 512 tokens, {threads} threads")
    return 0 if passed and median <= MOST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
