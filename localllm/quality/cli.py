"""quality: how much of a model is left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm import config
from localllm.library import ModelNames
from localllm.library.arguments import complete_model
from localllm.library.find import find_runnable
from localllm.library.quality.measure import quality
from localllm.library.quality.text import read_texts
from localllm.placement import arguments as place
from localllm.quality.view import view_of
from localllm.registry import Registry
from localllm.ui import Sink


def quality_command(
    models: ModelNames,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="MODEL", autocompletion=complete_model,
            help="Compare with this model, as the one it was quantized from: KL divergence, "
            "change of probabilities, same top token. Computed once for all models.",
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", "-f", metavar="FILE",
                     help="UTF-8 text; repeatable. Default: a built-in one in thirty languages."),
    ] = None,
    n_ctx: Annotated[
        int, typer.Option("--ctx", "-c", min=4, help="Tokens of each context; the second half "
                          "of each is scored.")
    ] = 512,
    chunks: Annotated[
        int | None, typer.Option("--chunks", min=1, help="Only the first so many contexts.")
    ] = None,
    base_cache: Annotated[
        Path | None,
        typer.Option("--base-cache", metavar="FILE",
                     help="Keep the base's figures in this file, or take them from it."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure anew what the registry has.")
    ] = False,
    kv: place.KvType = "f16",
    n_gpu_layers: place.GpuLayers = None,
    flash_attn: place.FlashAttn = "auto",
    threads: place.Threads = None,
    rpc: place.Rpc = None,
    require_gpu: place.RequireGpu = False,
    force: place.Force = False,
    *,
    sink: Sink,
) -> None:  # fmt: skip
    """Measure perplexity, and what a model lost against the one it was made from."""
    settings = config.load()
    registry = Registry.open(settings)
    place.use_workers(rpc)
    found = [find_runnable(name, registry) for name in models]
    outcome = quality(
        found,
        None if base is None else find_runnable(base, registry),
        read_texts(text or []),
        registry,
        sink.progress,
        plan=place.plan_options(n_ctx, kv, n_gpu_layers, flash_attn),
        chunks=chunks,
        threads=threads or settings.threads,
        require_gpu=require_gpu,
        force=force,
        again=again,
        base_cache=base_cache,
    )
    for advice in outcome.advice:
        sink.warn(advice.message + (f"; try: {advice.hint}" if advice.hint else ""))
    if outcome.unkept is not None:
        sink.warn(f"the figures are not kept: {outcome.unkept}")
    sink.show(outcome.report, view_of, ok=outcome.error is None, error=outcome.error)
