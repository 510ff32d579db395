"""fit: does it fit, where does it go, how fast might it be."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from localllm import config
from localllm.errors import DoesNotFit
from localllm.fit.plan import Fit, FitReport, fit, places
from localllm.fit.subjects import subject_of
from localllm.library import ModelNames
from localllm.placement import Plan, Verdict
from localllm.placement import arguments as place
from localllm.registry import Registry
from localllm.ui import Bytes, Count, Fields, Heading, Sink, Table, View
from localllm.ui.view import Note, Toned


def fit_command(
    models: ModelNames,
    n_ctx: place.Ctx = None,
    kv: place.KvType = "f16",
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, help="Conversations at once, each of --ctx.")
    ] = 1,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu",
            metavar="NAME[:N]",
            help='On other hardware: "RTX 4060 Ti 16 GB:3", "RTX 3090 + RTX 3060 12 GB"; '
            "repeatable, one machine each.",
        ),
    ] = None,
    vram: Annotated[
        list[str] | None,
        typer.Option("--vram", metavar="SIZE[:N]", help="On a GPU of so much memory: 24GiB."),
    ] = None,
    n_gpu_layers: place.GpuLayers = None,
    flash_attn: place.FlashAttn = "auto",
    rpc: place.Rpc = None,
    *,
    sink: Sink,
) -> None:
    """Say whether a model fits this or other hardware, before downloading it."""
    settings = config.load()
    registry = Registry.open(settings)
    place.use_workers(rpc)
    options = place.plan_options(
        n_ctx or settings.n_ctx, kv, n_gpu_layers, flash_attn, n_parallel=parallel
    )
    where = places(gpu or (), vram or ())
    subjects = [subject_of(text, registry, settings, n_ctx, sink.note) for text in models]
    report = fit(subjects, where, options)
    for advice in report.advice:
        sink.warn(advice.message + (f"; try: {advice.hint}" if advice.hint else ""))
    bad = next((f for f in report.fits if f.plan.verdict == "none"), None)
    sink.show(report, _view, ok=bad is None, error=None if bad is None else _misfit(bad))


def _misfit(one: Fit) -> DoesNotFit:
    plan = one.plan
    if plan.runs:
        return DoesNotFit(
            f"{one.model} on {one.place}: only {plan.n_offloaded} of {plan.n_layers} layers fit "
            "the GPU; the CPU would set the speed",
            _hint(plan),
        )
    return DoesNotFit(
        f"{one.model} needs {Bytes(plan.total_bytes)} on {one.place}, "
        f"{Bytes(plan.missing_bytes)} more than there is",
        _hint(plan),
    )


def _hint(plan: Plan) -> str:
    longest = plan.largest_n_ctx_gpu or plan.largest_n_ctx
    if 0 < longest < plan.n_ctx:
        return f"--ctx {longest} fits; or a smaller variant: localllm pull --list"
    return "a smaller variant: localllm pull --list org/repo"


def _view(report: FitReport) -> View:
    if len(report.fits) == 1:
        return _one(report.fits[0])
    columns = ("model", "on", "weights", "KV", "compute", "total", "verdict", "layers on GPU",
               "longest context", "est. t/s")  # fmt: skip
    rows = [
        (
            f.model,
            f.place,
            Bytes(f.plan.weights_bytes),
            Bytes(f.plan.kv_bytes + f.plan.state_bytes),
            Bytes(f.plan.compute_bytes),
            Bytes(f.plan.total_bytes),
            _verdict(f.plan),
            f"{f.plan.n_offloaded}/{f.plan.n_layers}",
            f.plan.largest_n_ctx_gpu or f.plan.largest_n_ctx,
            _speed(f.plan),
        )
        for f in report.fits
    ]
    return [Table(columns, rows), Note(_basis(report.fits[0]))]


def _one(f: Fit) -> View:
    plan = f.plan
    bits = f", {f.bits_per_weight:.2f} bits/weight" if f.bits_per_weight else ""
    parallel = f", {plan.n_parallel} conversations" if plan.n_parallel > 1 else ""
    rows: list[tuple[str, Any]] = [
        ("model", f.model),
        ("what", f"{f.architecture} {f.file_type or ''} {Count(f.n_params)}{bits}"),
        ("on", f.place),
        ("context", f"{plan.n_ctx}{parallel} (trained for {plan.n_ctx_train})"),
        ("verdict", _verdict(plan)),
        ("total", Bytes(plan.total_bytes)),
        ("longest context", plan.largest_n_ctx or "none fits"),
        ("on the GPU alone", plan.largest_n_ctx_gpu if plan.devices else None),
        ("est. speed", _speed(plan)),
    ]
    columns = ("device", "layers", "weights", "KV", "compute", "total", "free")
    return [Fields(rows), Heading("Memory"), Table(columns, _devices(plan)), Note(_basis(f))]


def _devices(plan: Plan) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [
        (
            d.name if d.description in d.name else f"{d.name} ({d.description})",
            _layers(d.n_layers, d.holds_output),
            Bytes(d.weights_bytes),
            Bytes(d.kv_bytes + d.state_bytes),
            Bytes(d.compute_bytes),
            Bytes(d.total_bytes),
            Bytes(d.free_bytes),
        )
        for d in plan.devices
    ]
    host = plan.host
    rows.append(
        (
            "main memory",
            _layers(host.n_layers, host.holds_output),
            Bytes(host.weights_bytes),
            Bytes(host.kv_bytes + host.state_bytes),
            Bytes(host.compute_bytes + host.logits_bytes),
            Bytes(host.total_bytes),
            Bytes(host.available_bytes),
        )
    )
    return rows


def _layers(n: int, output: bool) -> str:
    return f"{n} + output" if output else str(n)


def _verdict(plan: Plan) -> Toned:
    some = f"{plan.n_offloaded} of {plan.n_layers} layers"
    words: dict[Verdict, Toned] = {
        "all": Toned("◯ all on the GPU", "good"),
        "partial": Toned(f"△ {some} on the GPU", "warn"),
        "cpu": Toned("◯ on the CPU", "good"),
        "none": Toned(f"✗ only {some} fit the GPU" if plan.runs else "✗ does not fit", "bad"),
    }
    return words[plan.verdict]


def _speed(plan: Plan) -> str | None:
    s = plan.speed
    if s is None:
        return None
    return f"{s.mid_tps:.3g} t/s ({s.low_tps:.3g} to {s.high_tps:.3g}, estimated)"


def _basis(f: Fit) -> str:
    if f.plan.basis == "llama.cpp":
        return "weights and KV exact; compute buffers as this llama.cpp reserves them"
    why = f" ({f.unasked})" if f.unasked else ""
    return (
        f"weights and KV exact; compute buffers by arithmetic{why}, within "
        f"{f.plan.compute_error:.0%} of what llama.cpp reserves"
    )
