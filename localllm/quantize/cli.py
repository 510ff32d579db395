"""quantize: a model made smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm.errors import Interrupted
from localllm.library import ModelName
from localllm.quantize.requests import Given
from localllm.quantize.run import run_all
from localllm.quantize.views import several
from localllm.registry import Registry
from localllm.ui import Sink

_TENSORS, _WEIGHTS, _FILES = "Which tensor gets which type", "Importance matrix", "Result"


def quantize_command(
    model: ModelName,
    types: Annotated[
        list[str] | None,
        typer.Argument(metavar="TYPE...", help="Q4_K_M, IQ3_S, Q8_0, F16 and so on; or several."),
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type",
            metavar="REGEX=TYPE",
            rich_help_panel=_TENSORS,
            help="Another type where the expression is found in the name; the first counts.",
        ),
    ] = None,
    tensor_type_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--tensor-type-file",
            metavar="FILE",
            rich_help_panel=_TENSORS,
            help="The same from a file, separated by blanks or lines.",
        ),
    ] = None,
    output_tensor_type: Annotated[
        str | None,
        typer.Option(
            "--output-tensor-type",
            "--output-type",
            metavar="TYPE",
            rich_help_panel=_TENSORS,
            help="The output tensor's type.",
        ),
    ] = None,
    token_embedding_type: Annotated[
        str | None,
        typer.Option(
            "--token-embedding-type",
            "--embedding-type",
            metavar="TYPE",
            rich_help_panel=_TENSORS,
            help="The token embedding's type.",
        ),
    ] = None,
    leave_output_tensor: Annotated[
        bool,
        typer.Option(
            "--leave-output-tensor",
            "--leave-output",
            rich_help_panel=_TENSORS,
            help="Keep the output tensor as it is.",
        ),
    ] = False,
    pure: Annotated[
        bool, typer.Option("--pure", rich_help_panel=_TENSORS, help="One type for all tensors.")
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            rich_help_panel=_TENSORS,
            help="Take every tensor's type from a plan; no TYPE is given then.",
        ),
    ] = None,
    save_plan: Annotated[
        Path | None,
        typer.Option(
            "--save-plan",
            metavar="FILE",
            rich_help_panel=_TENSORS,
            help="Write every tensor's type as a plan to edit: .json or .toml.",
        ),
    ] = None,
    imatrix: Annotated[
        str | None,
        typer.Option(
            "--imatrix",
            metavar="auto|FILE|none",
            rich_help_panel=_WEIGHTS,
            help="Importance matrix: llama.cpp's GGUF or .dat; auto: the one kept for the "
            "model, or made now.",
        ),
    ] = None,
    include_weights: Annotated[
        list[str] | None,
        typer.Option(
            "--include-weights",
            metavar="NAME",
            rich_help_panel=_WEIGHTS,
            help="Only the importance of tensors whose name holds this.",
        ),
    ] = None,
    exclude_weights: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude-weights",
            metavar="NAME",
            rich_help_panel=_WEIGHTS,
            help="Not the importance of tensors whose name holds this.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", rich_help_panel=_FILES, help="What to call the result."),
    ] = None,
    keep_split: Annotated[
        bool,
        typer.Option(
            "--keep-split", rich_help_panel=_FILES, help="As many files as the source has."
        ),
    ] = False,
    prune_layers: Annotated[
        str | None,
        typer.Option(
            "--prune-layers",
            metavar="L0,L1",
            rich_help_panel=_FILES,
            help="Leave these layers out; those behind them move up.",
        ),
    ] = None,
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            "--override-kv",
            metavar="KEY=TYPE:VALUE",
            rich_help_panel=_FILES,
            help="Metadata of the result; TYPE is int, float, bool or str.",
        ),
    ] = None,
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize", help="Take a source that is quantized already (loses quality)."
        ),
    ] = False,
    threads: Annotated[int, typer.Option("--threads", "-t", min=0, help="0: all cores.")] = 0,
    max_memory: Annotated[
        int | None,
        typer.Option(
            "--max-memory",
            metavar="MiB",
            min=1,
            help="Memory for the rows at work (256).",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show every tensor and the exact size, write nothing.")
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Make a model smaller."""
    registry = Registry.open()
    given = Given(
        types=tuple(types or ()),
        tensor_types=tuple(tensor_type or ()),
        tensor_type_files=tuple(tensor_type_file or ()),
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        leave_output_tensor=leave_output_tensor,
        pure=pure,
        plan=plan,
        imatrix=imatrix,
        include_weights=tuple(include_weights or ()),
        exclude_weights=tuple(exclude_weights or ()),
        name=name,
        keep_split=keep_split,
        prune_layers=prune_layers,
        override_kv=tuple(override_kv or ()),
        allow_requantize=allow_requantize,
        threads=threads,
        max_memory_mib=max_memory,
    )
    try:
        done = run_all(model, given, registry, sink, dry_run=dry_run, save_plan=save_plan)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was finished is kept", "run it again") from None
    sink.show(done[0] if len(done) == 1 else {"outputs": done}, lambda _: several(done, dry_run))
