"""The options of `quantize`, as the command line names them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_TENSORS, _WEIGHTS, _FILES = "Which tensor gets which type", "Importance matrix", "Result"
_SIZE = "The best model for a size"
_MEASURE = "Measure the result"

Types = Annotated[
    list[str] | None,
    typer.Argument(metavar="TYPE...", help="Q4_K_M, IQ3_S, Q8_0, F16 and so on; or several."),
]
TensorType = Annotated[
    list[str] | None,
    typer.Option(
        "--tensor-type", metavar="REGEX=TYPE", rich_help_panel=_TENSORS,
        help="Another type where the expression is found in the name; the first counts.",
    ),
]  # fmt: skip
TensorTypeFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--tensor-type-file", metavar="FILE", rich_help_panel=_TENSORS,
        help="The same from a file, separated by blanks or lines.",
    ),
]  # fmt: skip
OutputTensorType = Annotated[
    str | None,
    typer.Option(
        "--output-tensor-type", "--output-type", metavar="TYPE", rich_help_panel=_TENSORS,
        help="The output tensor's type.",
    ),
]  # fmt: skip
TokenEmbeddingType = Annotated[
    str | None,
    typer.Option(
        "--token-embedding-type", "--embedding-type", metavar="TYPE", rich_help_panel=_TENSORS,
        help="The token embedding's type.",
    ),
]  # fmt: skip
LeaveOutputTensor = Annotated[
    bool,
    typer.Option(
        "--leave-output-tensor", "--leave-output", rich_help_panel=_TENSORS,
        help="Keep the output tensor as it is.",
    ),
]  # fmt: skip
Pure = Annotated[
    bool, typer.Option("--pure", rich_help_panel=_TENSORS, help="One type for all tensors.")
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan", metavar="FILE", rich_help_panel=_TENSORS,
        help="Take every tensor's type from a plan; no TYPE is given then.",
    ),
]  # fmt: skip
SavePlan = Annotated[
    Path | None,
    typer.Option(
        "--save-plan", metavar="FILE", rich_help_panel=_TENSORS,
        help="Write every tensor's type as a plan to edit: .json or .toml.",
    ),
]  # fmt: skip
Imatrix = Annotated[
    str | None,
    typer.Option(
        "--imatrix", metavar="auto|FILE|none", rich_help_panel=_WEIGHTS,
        help="Importance matrix: llama.cpp's GGUF or .dat; auto: the one kept for the "
        "model, or made now.",
    ),
]  # fmt: skip
IncludeWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--include-weights", metavar="NAME", rich_help_panel=_WEIGHTS,
        help="Only the importance of tensors whose name holds this.",
    ),
]  # fmt: skip
ExcludeWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-weights", metavar="NAME", rich_help_panel=_WEIGHTS,
        help="Not the importance of tensors whose name holds this.",
    ),
]  # fmt: skip
Name = Annotated[
    str | None,
    typer.Option("--name", rich_help_panel=_FILES, help="What to call the result."),
]
KeepSplit = Annotated[
    bool,
    typer.Option("--keep-split", rich_help_panel=_FILES, help="As many files as the source has."),
]
PruneLayers = Annotated[
    str | None,
    typer.Option(
        "--prune-layers", metavar="L0,L1", rich_help_panel=_FILES,
        help="Leave these layers out; those behind them move up.",
    ),
]  # fmt: skip
OverrideKv = Annotated[
    list[str] | None,
    typer.Option(
        "--override-kv", metavar="KEY=TYPE:VALUE", rich_help_panel=_FILES,
        help="Metadata of the result; TYPE is int, float, bool or str.",
    ),
]  # fmt: skip
AllowRequantize = Annotated[
    bool,
    typer.Option(
        "--allow-requantize", help="Take a source that is quantized already (loses quality)."
    ),
]
Threads = Annotated[int, typer.Option("--threads", "-t", min=0, max=1024, help="0: all cores.")]
MaxMemory = Annotated[
    int | None,
    typer.Option("--max-memory", metavar="MiB", min=1, help="Memory for the rows at work (256)."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show every tensor and the exact size, write nothing.")
]

Measure = Annotated[
    bool,
    typer.Option(
        "--measure", rich_help_panel=_MEASURE,
        help="Then measure perplexity, divergence from MODEL and speed, beside MODEL and its "
        "other quantizations.",
    ),
]  # fmt: skip
Ladder = Annotated[
    bool,
    typer.Option(
        "--ladder", rich_help_panel=_MEASURE,
        help="Make and measure a set (the types given, or a sensible one; --imatrix auto), and "
        "recommend one for this machine.",
    ),
]  # fmt: skip
MeasureText = Annotated[
    list[Path] | None,
    typer.Option(
        "--measure-text", metavar="FILE", rich_help_panel=_MEASURE,
        help="UTF-8 text to judge by; repeatable. Default: a built-in one in thirty languages.",
    ),
]  # fmt: skip
MeasureChunks = Annotated[
    int | None,
    typer.Option(
        "--measure-chunks", min=1, rich_help_panel=_MEASURE,
        help="Judge by the first so many contexts of 512 tokens; default all.",
    ),
]  # fmt: skip
Again = Annotated[
    bool,
    typer.Option(
        "--again", rich_help_panel=_MEASURE, help="Measure anew what the registry has."
    ),
]  # fmt: skip
Chart = Annotated[
    bool | None,
    typer.Option(
        "--chart/--no-chart", rich_help_panel=_MEASURE,
        help="Draw a ladder's quality against size; default on a terminal.",
    ),
]  # fmt: skip
Report = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE.html", rich_help_panel=_MEASURE,
        help="Write a ladder as a page of its own.",
    ),
]  # fmt: skip
Keep = Annotated[
    str,
    typer.Option(
        "--keep", metavar="all|best|none", rich_help_panel=_MEASURE,
        help="Which models a ladder leaves on the disk; best: the recommended one.",
    ),
]  # fmt: skip
RequireFit = Annotated[
    bool,
    typer.Option(
        "--require-fit", rich_help_panel=_MEASURE,
        help="Fail (exit 4) where nothing of a ladder fits this machine.",
    ),
]  # fmt: skip
Ctx = Annotated[
    int | None,
    typer.Option(
        "--ctx", "-c", min=1, rich_help_panel=_MEASURE,
        help="Context in tokens that must fit; default 8192, or what the model was trained for "
        "if less.",
    ),
]  # fmt: skip
Size = Annotated[
    str | None,
    typer.Option(
        "--size", metavar="SIZE", rich_help_panel=_SIZE,
        help="Choose every tensor's type so that the file is at most this large (4.0GiB, 700MB) "
        "and loses least; no TYPE is given then.",
    ),
]  # fmt: skip
Bpw = Annotated[
    float | None,
    typer.Option(
        "--bpw", metavar="BITS", rich_help_panel=_SIZE,
        help="The same for so many bits per weight.",
    ),
]  # fmt: skip
FitHere = Annotated[
    bool,
    typer.Option(
        "--fit", rich_help_panel=_SIZE,
        help="The same for the largest file that this machine's memory holds, with --ctx tokens.",
    ),
]  # fmt: skip
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget", metavar="MINUTES", rich_help_panel=_SIZE,
        help="How long the model may be run to choose the types (15).",
    ),
]  # fmt: skip
Quick = Annotated[
    bool,
    typer.Option(
        "--quick", rich_help_panel=_SIZE,
        help="Choose by the types' errors alone, without running the model.",
    ),
]  # fmt: skip
SearchText = Annotated[
    list[Path] | None,
    typer.Option(
        "--text", metavar="FILE", rich_help_panel=_SIZE,
        help="Choose by the answers on this text; default a part of the built-in one. The "
        "result is judged on other text.",
    ),
]  # fmt: skip
