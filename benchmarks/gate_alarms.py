"""How often `localllm bench gate` cries wolf, and how often it misses a slow-down.

    python benchmarks/gate_alarms.py [simulate] [--gates 100] [--max-regression 0.05] [--calm 4]
    python benchmarks/gate_alarms.py record MODEL.gguf --minutes 45 --out FILE.json

`record` runs pp128 and tg32 on a real model for a long time, five of one and five of the other in
turn, on a machine that does other things too. gate_samples.json was recorded so on two cores of
an AMD EPYC that up to eight other people were compiling, testing and benchmarking on: the rate of
one and the same code varies between runs by a factor of four.

`simulate` plays whole gates on that recording: the real `gate()`, with its looks, its re-runs and
its limits, measures by taking the next recorded samples from a random moment on. Samples are never
shuffled, so bursts, drifts and their lengths stay what they were. Unchanged code takes both sides
from the recording as it is; for slower code every time of the new side is multiplied. Each gate
judges both tests, and one regression fails it.

  interleaved   the baseline is run again in turn with the new side: another install
                (--baseline-python), other settings, another model
  stored        the baseline is five samples of an earlier moment, and only the new side can be
                measured again
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localllm.bench.comparing.gate import GateRule, gate
from localllm.bench.comparing.rerun import InTime, Settled, by_rounds, interleave
from localllm.bench.comparing.side import Round
from localllm.library.bench.record import BenchRow, BenchRun, Evidence
from localllm.library.bench.statistics import deviation, mean

HERE = Path(__file__).resolve().parent
TESTS = (("pp128", 128, 0), ("tg32", 0, 32))
BLOCK = 5
PAUSE_BLOCKS = 3  # tape that runs by between rounds: about rerun.PAUSE_S


# --- recording --------------------------------------------------------------------------


def record(model: Path, minutes: float, threads: int, pause_s: float) -> dict[str, Any]:
    """Blocks of five samples of each test, with when they ended and what else ran."""
    from localllm.engine.context import Context
    from localllm.engine.measure import BenchRunner
    from localllm.engine.model import Model
    from localllm.engine.options import ContextOptions, LoadOptions
    from localllm.library.bench.conditions.evidence import observe

    found: dict[str, Any] = {name: {"us": [], "end_s": [], "other": []} for name, *_ in TESTS}
    begun = time.monotonic()
    with Model.load(model, LoadOptions()) as loaded:
        while time.monotonic() - begun < minutes * 60:
            for name, n_prompt, n_gen in TESTS:
                options = ContextOptions(n_ctx=256, n_threads=threads)
                with Context(loaded, options) as context:
                    runner = BenchRunner(context, n_prompt, n_gen)
                    runner.warm_up()
                    with observe(False) as seen, seen.timed():
                        for _ in range(BLOCK):
                            runner.prepare()
                            found[name]["us"].append(runner.run() // 1000)
                found[name]["end_s"].append(round(time.monotonic() - begun, 1))
                found[name]["other"].append(round(seen.evidence(1).other_cores or 0.0, 2))
            time.sleep(pause_s)
    return {"model": model.name, "threads": threads, "block": BLOCK, "tests": found}


# --- playing gates ----------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """One test's samples in nanoseconds, and how many cores others kept busy in each block."""

    ns: tuple[int, ...]
    other: tuple[float, ...]

    @property
    def n_blocks(self) -> int:
        return len(self.ns) // BLOCK


def read(path: Path, calm: float = 1.0) -> dict[str, Recording]:
    """The recording; `calm` 4 shrinks every deviation from the median (of the logarithm) to a
    quarter, as on a machine with less on it, and forgets who else was there."""
    tests = json.loads(path.read_text(encoding="utf-8"))["tests"]
    found = {}
    for name, t in tests.items():
        middle = statistics.median(t["us"])
        ns = tuple(int(1000 * middle * (us / middle) ** (1 / calm)) for us in t["us"])
        others = t["other"] if calm == 1 else [0.0] * len(t["other"])
        found[name] = Recording(ns, tuple(others))
    return found


class Tape:
    """A recording that is played from a block on; `factor` is applied to the new side's times."""

    def __init__(self, recording: Recording, block: int, factor: float) -> None:
        self.recording, self.at, self.factor = recording, block * BLOCK, factor
        self.played_ns = 0

    def sample(self, factor: float = 1.0) -> int:
        ns = int(self.recording.ns[self.at] * factor)
        self.at += 1
        self.played_ns += ns
        return ns

    def round(self, n: int) -> Round:
        block = -(-self.at // BLOCK) + PAUSE_BLOCKS
        self.at = block * BLOCK
        return Round(tuple(self.sample(self.factor) for _ in range(n)), self.recording.other[block])

    def left(self) -> bool:
        return self.at + (PAUSE_BLOCKS + 2) * BLOCK <= len(self.recording.ns)


class TapeRerun:
    """Measures by playing tapes: what `ChildRerun` does with processes."""

    def __init__(self, tapes: dict[str, Tape], base_build: str | None) -> None:
        self.tapes, self.base_build = tapes, base_build

    def interleaved(self, base: BenchRow, new: BenchRow, limit: float, in_time: InTime) -> Settled:
        tape = self.tapes[base.test]
        return interleave(tape.sample, lambda: tape.sample(tape.factor), limit, tape.left)

    def rounds(self, base: BenchRow, new: BenchRow, limit: float, in_time: InTime) -> Settled:
        tape = self.tapes[base.test]
        assert new.evidence is not None
        first = new.samples_ts if (new.evidence.other_cores or 0) <= 0.25 else ()
        n_tokens = new.n_prompt + new.n_gen
        return by_rounds(
            base.samples_ts, first, lambda: tape.round(BLOCK), n_tokens, limit, tape.left
        )


@dataclass
class Tally:
    gates: int = 0
    failed: int = 0
    undecided: int = 0
    played_s: float = 0.0


def play(
    recordings: dict[str, Recording], gates: int, mode: str, slower: float, limit: float, seed: int
) -> Tally:
    """`gates` gates from random moments. `slower` 0.1: the new side's rate is a tenth lower."""
    chance = random.Random(seed)
    n_blocks = min(r.n_blocks for r in recordings.values())
    # from every start there must be tape for the longest interleaving: 128 pairs
    last = n_blocks - (2 * 128 // BLOCK + 3)
    tally = Tally()
    for _ in range(gates):
        start = chance.randrange(last)
        old = chance.randrange(n_blocks) if mode == "stored" else start
        tapes = {k: Tape(r, start, 1 / (1 - slower)) for k, r in recordings.items()}
        base = _run(recordings, dict.fromkeys(recordings, old), 1.0)
        new = _run(recordings, dict.fromkeys(recordings, start), 1 / (1 - slower))
        if mode == "stored":
            for tape in tapes.values():
                tape.at += BLOCK
        rerun = TapeRerun(tapes, "another install" if mode == "interleaved" else None)
        report = gate(base, new, GateRule(max_regression=limit), rerun)
        tally.gates += 1
        tally.failed += not report.ok
        tally.undecided += any(row.outcome == "undecided" for row in report.rows)
        tally.played_s += sum(tape.played_ns for tape in tapes.values()) / 1e9
    return tally


def _run(recordings: dict[str, Recording], blocks: dict[str, int], factor: float) -> BenchRun:
    rows = []
    for name, n_prompt, n_gen in TESTS:
        recording, block = recordings[name], blocks[name]
        ns = [int(v * factor) for v in recording.ns[block * BLOCK : (block + 1) * BLOCK]]
        rates = tuple((n_prompt + n_gen) * 1e9 / v for v in ns)
        evidence = Evidence(sum(ns) / 1e9, other_cores=recording.other[block])
        rows.append(
            replace(
                _ROW, n_prompt=n_prompt, n_gen=n_gen, test=name, samples_ns=tuple(ns),
                samples_ts=rates, avg_ts=mean(rates), stddev_ts=deviation(rates), evidence=evidence,
            )
        )  # fmt: skip
    return BenchRun(1, None, "tape", None, None, 0.0, True, "", "", None, {}, tuple(rows))


_ROW = BenchRow(
    build_commit="", build_number=0, cpu_info="", gpu_info="", backends="CPU", model_filename="",
    model_type="", model_size=0, model_n_params=0, n_batch=2048, n_ubatch=512, n_threads=2,
    type_k="f16", type_v="f16", n_gpu_layers=0, n_cpu_moe=0, split_mode="layer", main_gpu=0,
    no_kv_offload=False, flash_attn=-1, tensor_split="", n_prompt=0, n_gen=0, n_depth=0,
    test_time="", avg_ns=0.0, stddev_ns=0.0, avg_ts=0.0, stddev_ts=0.0, samples_ns=(),
    samples_ts=(), model="tape", test="", sha256=None, failure=None, ci95_low_ts=None,
    ci95_high_ts=None, n_layers=0, n_layers_offloaded=0, load_s=0.0, memory=(), evidence=None,
)  # fmt: skip


def bounds(hits: int, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a share (Clopper and Pearson)."""

    def at_least(p: float) -> float:  # P(X >= hits)
        return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))

    def at_most(p: float) -> float:
        return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits + 1))

    low = 0.0 if hits == 0 else _root(lambda p: at_least(p) - 0.025)
    high = 1.0 if hits == n else _root(lambda p: 0.025 - at_most(p))
    return low, high


def _root(rising: Any) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return low


def simulate(
    path: Path, gates: int, limit: float, seed: int, calm: float
) -> Iterator[dict[str, Any]]:
    recordings = read(path, calm)
    for mode in ("interleaved", "stored"):
        for slower in (0.0, 0.1, 1 - 1 / 1.1, 0.2, 0.5):
            tally = play(recordings, gates, mode, slower, limit, seed)
            low, high = bounds(tally.failed, tally.gates)
            yield {
                "baseline": mode, "slower": round(slower, 4), "gates": tally.gates,
                "failed": tally.failed, "failed_95": [round(low, 4), round(high, 4)],
                "undecided": tally.undecided, "mean_s": round(tally.played_s / tally.gates, 1),
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="?", default="simulate",
                        choices=("simulate", "record"))  # fmt: skip
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--samples", type=Path, default=HERE / "gate_samples.json")
    parser.add_argument("--gates", type=int, default=100)
    parser.add_argument("--max-regression", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calm", type=float, default=1.0, help="shrink the noise so many times")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pause", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("gate_samples.json"))
    options = parser.parse_args()
    if options.what == "record":
        if options.model is None:
            parser.error("record wants a model")
        found = record(options.model, options.minutes, options.threads, options.pause)
        options.out.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")
        return
    limit, seed = options.max_regression, options.seed
    for row in simulate(options.samples, options.gates, limit, seed, options.calm):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
