"""The options of `merge`, as the command line names them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm.library.arguments import complete_model

_LORA, _MODELS, _CHECK, _RESULT = (
    "Adapters into a base", "Whole models", "What is lost", "Result"
)  # fmt: skip

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL...", autocompletion=complete_model,
        help="The base of the adapters, or the models to merge; none with --config.",
    ),
]  # fmt: skip
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", metavar="ADAPTER[:SCALE]", rich_help_panel=_LORA, autocompletion=complete_model,
        help="A LoRA adapter, and how strongly it counts (1); repeatable.",
    ),
]  # fmt: skip
AnyBase = Annotated[
    bool,
    typer.Option(
        "--any-base", rich_help_panel=_LORA,
        help="Although the adapter says that it was trained on another model.",
    ),
]  # fmt: skip
KeepOthers = Annotated[
    bool,
    typer.Option(
        "--keep-others", rich_help_panel=_LORA,
        help="Leave tensors that no adapter changes as they are, floats too.",
    ),
]  # fmt: skip
Method = Annotated[
    str | None,
    typer.Option(
        "--method", "-m", rich_help_panel=_MODELS,
        metavar="linear|slerp|task_arithmetic|ties|dare_ties|dare_linear|passthrough",
        help="How whole models are merged.",
    ),
]  # fmt: skip
Base = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="MODEL", rich_help_panel=_MODELS, autocompletion=complete_model,
        help="What the models were tuned from; for slerp the end where t is 0. For linear and "
        "passthrough only whose metadata the result gets (default: the first).",
    ),
]  # fmt: skip
Weight = Annotated[
    list[float] | None,
    typer.Option(
        "--weight", "-w", rich_help_panel=_MODELS,
        help="One number for all models, or one each in their order (1).",
    ),
]  # fmt: skip
Density = Annotated[
    list[float] | None,
    typer.Option(
        "--density", rich_help_panel=_MODELS,
        help="Share of each difference that stays (ties, dare): one for all, or one each (1).",
    ),
]  # fmt: skip
Fraction = Annotated[
    float | None,
    typer.Option("--t", rich_help_panel=_MODELS,
                 help="How far slerp goes from the base (0) to the other (1)."),
]  # fmt: skip
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers", metavar="MODEL=FROM-TO", rich_help_panel=_MODELS,
        help="Passthrough: stack these layers, FROM (0 the first) to before TO; repeatable, in "
        "order.",
    ),
]  # fmt: skip
Seed = Annotated[
    int | None,
    typer.Option("--seed", rich_help_panel=_MODELS, help="Of dare's random choice (0)."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", rich_help_panel=_MODELS,
        help="All of it from a file: a mergekit configuration (YAML), or the same in TOML.",
    ),
]  # fmt: skip
AllowLoss = Annotated[
    bool,
    typer.Option(
        "--allow-loss", rich_help_panel=_CHECK,
        help="Merge although the type would lose most of the tuning.",
    ),
]  # fmt: skip
Text = Annotated[
    list[Path] | None,
    typer.Option(
        "--text", "-f", metavar="FILE", rich_help_panel=_CHECK,
        help="Text that was not trained on, to measure the loss before and after; must keep half "
        "of the gain. Default: a built-in one, for information.",
    ),
]  # fmt: skip
Chunks = Annotated[
    int | None,
    typer.Option("--chunks", min=2, rich_help_panel=_CHECK,
                 help="Contexts of 512 tokens that the loss is measured on (8)."),
]  # fmt: skip
NoLoss = Annotated[
    bool,
    typer.Option("--no-loss", rich_help_panel=_CHECK, help="Do not run the models."),
]
Type = Annotated[
    str | None,
    typer.Option(
        "--type", metavar="TYPE", rich_help_panel=_RESULT,
        help="Q6_K, Q8_0, F16 and so on. Default: for adapters the smallest type that keeps the "
        "tuning, by measurement; for whole GGUF models the widest float among them, at least F16; "
        "safetensors and layers that are only stacked keep their own.",
    ),
]  # fmt: skip
Imatrix = Annotated[
    str | None,
    typer.Option(
        "--imatrix", metavar="FILE|auto", rich_help_panel=_RESULT,
        help="Importance matrix to quantize with; auto: the one kept for the (first) model.",
    ),
]  # fmt: skip
Name = Annotated[
    str | None, typer.Option("--name", rich_help_panel=_RESULT, help="What the result is called.")
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", "-t", min=1, rich_help_panel=_RESULT,
                 help="Processor threads; default the physical cores."),
]  # fmt: skip
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", rich_help_panel=_RESULT,
                 help="Check everything and say what would be made, to the byte; write nothing."),
]  # fmt: skip
