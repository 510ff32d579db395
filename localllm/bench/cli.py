"""bench: how fast a model is here."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm import config
from localllm.bench.bench import BenchRow, BenchRun, bench
from localllm.bench.measure import bench_tests
from localllm.errors import Interrupted
from localllm.library import ModelNames, find_gguf
from localllm.placement import arguments as place
from localllm.registry import Registry
from localllm.ui import Bytes, Count, Rate, Seconds, Sink, Table, View
from localllm.ui.view import AnyCell, Note


def bench_command(
    models: ModelNames,
    n_prompt: Annotated[
        list[int] | None,
        typer.Option("--n-prompt", "-p", min=0, help="Tokens of prompt; repeatable. Default 512."),
    ] = None,
    n_gen: Annotated[
        list[int] | None,
        typer.Option("--n-gen", "-n", min=0, help="Tokens to generate; repeatable. Default 128."),
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="Samples of each test.")
    ] = 5,
    kv: place.KvType = "f16",
    n_gpu_layers: place.GpuLayers = None,
    flash_attn: place.FlashAttn = "auto",
    threads: place.Threads = None,
    n_batch: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="n_batch.")] = 2048,
    n_ubatch: Annotated[int, typer.Option("--ubatch-size", "-ub", min=1, help="n_ubatch.")] = 512,
    require_gpu: place.RequireGpu = False,
    force: place.Force = False,
    *,
    sink: Sink,
) -> None:
    """Measure prompt processing and token generation, against the memory planned."""
    settings = config.load()
    registry = Registry.open(settings)
    found = [find_gguf(name, registry) for name in models]
    tests = bench_tests([512] if n_prompt is None else n_prompt, [128] if n_gen is None else n_gen)
    longest = max(t.n_tokens for t in tests)
    plan = place.plan_options(
        longest, kv, n_gpu_layers, flash_attn, n_batch=n_batch, n_ubatch=n_ubatch
    )
    runs: list[BenchRun] = []
    for model in found:
        try:
            runs.append(
                bench(
                    model, tests, plan, registry, sink.progress, repetitions=repetitions,
                    threads=threads or settings.threads, require_gpu=require_gpu, force=force,
                )
            )  # fmt: skip
        except KeyboardInterrupt:
            kept = f"{len(runs)} of {len(found)} models are measured"
            raise Interrupted(f"interrupted; {kept}") from None
    sink.show(tuple(runs), _table)


def _table(runs: tuple[BenchRun, ...]) -> View:
    columns = ("model", "size", "params", "layers on GPU", "threads", "test", "t/s", "±",
               "predicted", "weights read", "load")  # fmt: skip
    rows = [_row(row) for run in runs for row in run.rows]
    first = runs[0].rows[0]
    where = f"{first.cpu_info}; {first.gpu_info or 'no GPU'}; llama.cpp {first.build_commit}"
    said = "t/s: mean ± sample deviation; predicted: the memory the fit plan says it takes"
    return [Table(columns, rows), Note(where), Note(said)]


def _row(row: BenchRow) -> tuple[AnyCell, ...]:
    reads = row.weights_read_bytes_s
    return (
        row.model,
        Bytes(row.model_size),
        Count(row.model_n_params),
        f"{row.n_layers_offloaded}/{row.n_layers}",
        row.n_threads,
        row.test,
        Rate(row.avg_ts, ""),
        Rate(row.stddev_ts, ""),
        Bytes(row.predicted_bytes),
        None if reads is None else Rate(reads, "B/s"),
        Seconds(row.load_s),
    )
