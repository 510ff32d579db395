"""The options of every command that loads a model, under llama.cpp's names."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.errors import UsageProblem
from localllm.placement.options import PlanOptions

_PANEL = "Placement"

Ctx = Annotated[
    int | None,
    typer.Option(
        "--ctx", "-c", min=1, rich_help_panel=_PANEL,
        help="Context in tokens; default 8192, or what the model was trained for if less.",
    ),
]  # fmt: skip
KvType = Annotated[
    str | None,
    typer.Option(
        "--kv", metavar="TYPE", rich_help_panel=_PANEL,
        help="Type of the KV cache: f16 (default), q8_0 ... or K,V types joined by a comma.",
    ),
]  # fmt: skip
GpuLayers = Annotated[
    int | None,
    typer.Option(
        "--n-gpu-layers", "-ngl", rich_help_panel=_PANEL,
        help="Layers to offload, -1 for all; default all that fits.",
    ),
]  # fmt: skip
RequireGpu = Annotated[
    bool,
    typer.Option(
        "--require-gpu", rich_help_panel=_PANEL,
        help="Fail (exit 4) rather than run any layer on the CPU.",
    ),
]  # fmt: skip
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", "-t", min=1, rich_help_panel=_PANEL,
        help="Processor threads; default the physical cores this process may use.",
    ),
]  # fmt: skip
FlashAttn = Annotated[
    str | None,
    typer.Option("--flash-attn", "-fa", metavar="auto|on|off", rich_help_panel=_PANEL,
                 help="Flash attention; default auto."),
]  # fmt: skip
Rpc = Annotated[
    list[str] | None,
    typer.Option(
        "--rpc", metavar="HOST:PORT", rich_help_panel=_PANEL,
        help="Use the devices of a `localllm worker` too; may be repeated.",
    ),
]  # fmt: skip
Force = Annotated[
    bool,
    typer.Option("--force", rich_help_panel=_PANEL, help="Load it although it does not fit."),
]


def plan_options(
    n_ctx: int | None = None,
    kv: str | None = None,
    n_gpu_layers: int | None = None,
    flash_attn: str | None = None,
    n_parallel: int = 1,
    n_batch: int = 2048,
    n_ubatch: int = 512,
) -> PlanOptions:
    """The plan's options from the command line's. Raises UsageProblem."""
    kv, flash_attn = kv or "f16", flash_attn or "auto"
    if flash_attn not in ("auto", "on", "off"):
        raise UsageProblem(f"--flash-attn {flash_attn!r} is none of auto, on, off")
    types = kv.lower().split(",")
    if len(types) > 2:
        raise UsageProblem(f"--kv {kv!r} has more than two types", "--kv q8_0, or --kv q8_0,f16")
    return PlanOptions(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        type_k=types[0],
        type_v=types[-1],
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        flash_attn=flash_attn,  # type: ignore[arg-type]
        n_gpu_layers=n_gpu_layers,
    )


def use_workers(rpc: list[str] | None) -> None:
    """Let this run's plans have the devices of the workers of --rpc, beside those of the setting.

    Raises UsageProblem, EngineError for a build without RPC, SourceUnreachable, SourceFailed.
    """
    if rpc:
        from localllm.placement.workers import use

        use(rpc)


def said(
    kv: str | None = None, n_gpu_layers: int | None = None, flash_attn: str | None = None
) -> frozenset[str]:
    """The fields of PlanOptions that these options of the command line decide."""
    fields = {
        "type_k": kv, "type_v": kv, "n_gpu_layers": n_gpu_layers, "flash_attn": flash_attn
    }  # fmt: skip
    return frozenset(name for name, value in fields.items() if value is not None)
