"""Rows and runs made up for tests of what is done with them."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

from localllm.library.bench.case import BenchTest
from localllm.library.bench.record import (
    SCHEMA,
    BatchedRow,
    BenchRow,
    BenchRun,
    DeviceMemory,
    Evidence,
    Failure,
    LatencyRow,
    LoadTimes,
    Machine,
    Percentiles,
    ServingRow,
)

MACHINE = Machine(
    "0123456789abcdef", "bench-box", "Linux", "6.1.0", "Some CPU", 8, 16, 64 << 30,
    ("Some GPU 24 GB",), "550.54",
)  # fmt: skip


def a_row(
    model: str = "tiny",
    test: BenchTest | None = None,
    rates: tuple[float, ...] = (99.0, 101.0, 100.0),
    **more: Any,
) -> BenchRow:
    """A row with these samples in tokens a second."""
    test = test or BenchTest(0, 128)
    values: dict[str, Any] = {
        "build_commit": "0c1e570", "build_number": 1, "cpu_info": "Some CPU", "gpu_info": "",
        "backends": "CPU", "model_filename": f"{model}.gguf", "model_type": "llama 8B Q4_K",
        "model_size": 4 << 30, "model_n_params": 8_030_000_000, "n_batch": 2048,
        "n_ubatch": 512, "n_threads": 8, "type_k": "f16", "type_v": "f16", "n_gpu_layers": 0,
        "n_cpu_moe": 0, "split_mode": "layer", "main_gpu": 0, "no_kv_offload": False,
        "flash_attn": -1, "tensor_split": "", "n_prompt": test.n_prompt, "n_gen": test.n_gen,
        "n_depth": test.n_depth, "test_time": "2026-11-22T02:01:31Z",
        "samples_ns": tuple(round(test.n_tokens / r * 1e9) for r in rates), "samples_ts": rates,
        "avg_ts": statistics.fmean(rates), "stddev_ts": statistics.stdev(rates),
        "avg_ns": 1e9, "stddev_ns": 1e7, "model": model, "test": test.name, "sha256": "ab" * 32,
        "failure": None, "ci95_low_ts": min(rates), "ci95_high_ts": max(rates), "n_layers": 33,
        "n_layers_offloaded": 0, "load_s": 0.5,
        "memory": (DeviceMemory("CPU", 5 << 30, 4 << 30, 3 << 30, 1 << 29, 1 << 29, None),),
        "evidence": Evidence(4.2, 3_100_000_000, 2_900_000_000, 61.0, mean_power_w=55.5),
        "localllm_version": "0.1.0",
    }  # fmt: skip
    return BenchRow(**(values | more))


def failed(row: BenchRow, message: str = "needs 31 GiB, there are 23") -> BenchRow:
    """The same without figures."""
    return replace(
        row, failure=Failure("does_not_fit", message), avg_ns=0.0, stddev_ns=0.0, avg_ts=0.0,
        stddev_ts=0.0, samples_ns=(), samples_ts=(), ci95_low_ts=None, ci95_high_ts=None,
        memory=(), evidence=None,
    )  # fmt: skip


def a_run(*rows: BenchRow, **more: Any) -> BenchRun:
    rows = rows or (a_row(),)
    values: dict[str, Any] = {
        "schema": SCHEMA, "id": None, "model": rows[0].model, "sha256": rows[0].sha256,
        "tag": None, "started_at": 1_795_312_891.0, "complete": True, "sweep": "abc",
        "command": "localllm bench tiny", "machine": MACHINE,
        "versions": {"localllm": "0.1.0", "llama.cpp": "0c1e570"}, "rows": rows,
    }  # fmt: skip
    return BenchRun(**(values | more))


def a_full_run(model: str = "tiny", **more: Any) -> BenchRun:
    """A run with everything that a run may have."""
    some = Percentiles(20, 0.1, 0.09, 0.12, 0.13, 0.2, 0.25)
    depths = [a_row(model, BenchTest(0, 128, d), (99 - d / 100, 100 - d / 100, 101 - d / 100))
              for d in (0, 1024, 4096)]  # fmt: skip
    noisy = replace(depths[0], test="pp512", n_prompt=512, n_gen=0,
                    evidence=Evidence(1.0, noisy=("others kept 1.4 cores busy",)))  # fmt: skip
    return a_run(
        *depths, noisy, failed(a_row(model, BenchTest(512, 0, 99999))),
        load=LoadTimes((3.1, 3.3), (0.8,)),
        latency=(LatencyRow(512, 128, 20, some, some, 900.0, 90.0),),
        batched=tuple(BatchedRow(n, 128, 64, 1.0, 900.0, 2.0, 90.0 * n**0.7) for n in (1, 2, 4)),
        serving=(ServingRow(4, 32, 128, 64, 10.0, 200.0, 3.2, some, some, -0.05),),
        **more,
    )  # fmt: skip
