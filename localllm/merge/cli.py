"""merge: several models, or a model and its tuning, made one."""

from __future__ import annotations

from localllm.errors import Interrupted, UsageProblem
from localllm.library import find_gguf
from localllm.library.merging.adapters import merge_adapters
from localllm.merge import options as opt
from localllm.merge.requests import Given, adapter_request, find_adapters
from localllm.merge.views import adapters_view, models_view
from localllm.merge.whole import Wanted, merge_whole
from localllm.registry import Registry
from localllm.ui import Sink


def merge_command(
    models: opt.Models = None,
    lora: opt.Lora = None,
    method: opt.Method = None,
    base: opt.Base = None,
    weight: opt.Weight = None,
    density: opt.Density = None,
    t: opt.Fraction = None,
    layers: opt.Layers = None,
    seed: opt.Seed = None,
    config: opt.Config = None,
    any_base: opt.AnyBase = False,
    keep_others: opt.KeepOthers = False,
    allow_loss: opt.AllowLoss = False,
    text: opt.Text = None,
    chunks: opt.Chunks = None,
    no_loss: opt.NoLoss = False,
    kind: opt.Type = None,
    imatrix: opt.Imatrix = None,
    name: opt.Name = None,
    threads: opt.Threads = None,
    dry_run: opt.DryRun = False,
    *,
    sink: Sink,
) -> None:
    """Merge a tuning into its model, or whole models into one."""
    registry = Registry.open()
    given = Given(
        kind=kind, name=name, imatrix=imatrix, keep_others=keep_others, allow_loss=allow_loss,
        any_base=any_base, texts=tuple(text or ()), chunks=chunks, no_loss=no_loss,
        threads=threads,
    )  # fmt: skip
    wanted = Wanted(
        models=tuple(models or ()), config=config, method=method, base=base,
        weights=tuple(weight or ()), densities=tuple(density or ()), t=t,
        layers=tuple(layers or ()), seed=seed,
    )  # fmt: skip
    try:
        if lora:
            _merge_adapters(wanted, lora, given, registry, sink, dry_run)
            return
        made = merge_whole(wanted, given, registry, sink.progress, sink.note, dry_run=dry_run)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was made", "run it again") from None
    sink.show(made, lambda _: models_view(made))


def _merge_adapters(
    wanted: Wanted, lora: list[str], given: Given, registry: Registry, sink: Sink, dry_run: bool
) -> None:
    others = [flag for flag in wanted.flags if flag != "MODEL"]
    if others or wanted.config is not None:
        raise UsageProblem(f"{others[0] if others else '--config'} and --lora do not go together")
    if wanted.seed is not None:
        raise UsageProblem("an adapter is added as it is: --seed is of dare")
    if len(wanted.models) != 1:
        raise UsageProblem(
            f"--lora merges into one base, and {len(wanted.models)} models were given",
            "localllm merge BASE --lora ADAPTER",
        )
    base = find_gguf(wanted.models[0], registry)
    adapters = find_adapters(lora, registry)
    made = merge_adapters(
        base, adapters, adapter_request(given, base, registry), registry, sink.progress,
        sink.note, dry_run=dry_run,
    )  # fmt: skip
    if made.ignored:
        sink.warn(
            f"the adapter holds {len(made.ignored)} norms ({made.ignored[0]} is the first), which "
            "llama.cpp does not apply: they are left out"
        )
    sink.show(made, lambda _: adapters_view(made))
