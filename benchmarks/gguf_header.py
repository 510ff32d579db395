"""python benchmarks/gguf_header.py MODEL.gguf

Reads a GGUF header with localllm and with gguf.GGUFReader in the same process and prints the
medians and their ratio: first as each opens it (all keys and tensors found), then with every
value decoded to Python objects. On a vocabulary of 262,144 tokens the peer takes about ten
seconds a reading, so it is read once unless --peer-runs says more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from localllm.formats import read_header


def seconds(work: Callable[[], object], runs: int) -> float:
    """The median of `runs` timings."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def decode(path: Path) -> list[object]:
    return list(read_header(path).metadata.values())


def decode_with_peer(path: Path) -> list[object]:
    import gguf

    return [field.contents() for field in gguf.GGUFReader(path).fields.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description="localllm's GGUF header reader against gguf's")
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--peer-runs", type=int, default=1)
    options = parser.parse_args()

    import gguf

    model = options.model
    header = read_header(model)
    print(f"{model.name}: {len(header.metadata)} keys, {len(header.tensors)} tensors, "
          f"{len(header.raw)} header bytes")  # fmt: skip
    rows = [
        ("opened", read_header, gguf.GGUFReader),
        ("all values decoded", decode, decode_with_peer),
    ]
    for label, ours, theirs in rows:
        mine = seconds(partial(ours, model), options.runs)
        peer = seconds(partial(theirs, model), options.peer_runs)
        print(f"{label:20} localllm {mine:8.4f} s   gguf.GGUFReader {peer:8.4f} s   "
              f"{peer / mine:6.0f} x as fast")  # fmt: skip


if __name__ == "__main__":
    main()
