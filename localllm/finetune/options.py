"""The options of `finetune`, in the groups its help shows. Each but the first few is a key of a
recipe file; none has a default here, so that the file can speak where the command line does not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from localllm.library.arguments import complete_model

_DATA, _METHOD, _TRAIN, _MACHINE, _WATCH = (
    "Data", "Method", "Training", "This machine", "Looking and keeping",
)  # fmt: skip


def option(panel: str, name: str, text: str, metavar: str | None = None, **more: Any) -> Any:
    """A key of a recipe file, in a group of the help."""
    return typer.Option(name, help=text, metavar=metavar, rich_help_panel=panel, **more)


Base = Annotated[
    str | None,
    typer.Argument(
        metavar="[BASE]",
        help="The model to tune; may stand in the recipe.",
        autocompletion=complete_model,
        show_default=False,
    ),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", metavar="FILE", help="Options from a TOML file; flags win."),
]
SaveRecipe = Annotated[
    Path | None,
    typer.Option(
        "--save-recipe",
        metavar="FILE",
        help="Write all options as TOML; what the machine decides stays open.",
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="What to call the result.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check the data, measure what it will take, learn nothing."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with a run of this that was interrupted.")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Throw an interrupted run of this away and begin again.")
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Curves and samples as one HTML page."),
]
Merge = Annotated[
    str | None,
    typer.Option(
        "--merge",
        metavar="TYPE|auto",
        help="Also make a whole model of it in this type (F16, Q6_K ...); auto: the smallest "
        "that keeps it.",
    ),
]

Data = Annotated[
    list[str] | None,
    option(_DATA, "--data", "A file, a folder or a data set to learn from; may be repeated.",
            "FILE|FOLDER"),
]  # fmt: skip
Format = Annotated[
    str | None,
    option(_DATA, "--format", "What the rows are, where it is not plain.",
            "chat|sharegpt|alpaca|completion|qa|text|preference"),
]  # fmt: skip
Column = Annotated[
    list[str] | None,
    option(_DATA, "--column", "Which column is the prompt, answer, text ...", "ROLE=COLUMN"),
]
FromChats = Annotated[
    bool | None,
    option(_DATA, "--from-chats/--no-chats", "Also the conversations that `chat` kept."),
]
Chats = Annotated[
    list[str] | None,
    option(_DATA, "--chats", "Which of them: model, title, since, until, id; may be repeated.",
            "KEY=VALUE"),
]  # fmt: skip
FromVotes = Annotated[
    bool | None,
    option(_DATA, "--from-votes/--no-votes", "Also routers' answers judged good, and people's."),
]
BadRows = Annotated[
    str | None, option(_DATA, "--bad-rows", "What cannot be used is counted, or an error.",
                        "skip|error"),
]  # fmt: skip
Duplicates = Annotated[
    str | None, option(_DATA, "--duplicates", "Rows that say the same.", "keep|drop")
]
Limit = Annotated[int | None, option(_DATA, "--limit", "Take the first rows only.", "N")]
MaxLength = Annotated[
    int | None, option(_DATA, "--max-length", "Tokens of one example at most.", "N")
]
Overlong = Annotated[
    str | None,
    option(_DATA, "--overlong", "What happens to longer ones.", "truncate|drop|split|error"),
]
Learn = Annotated[
    str | None,
    option(_DATA, "--learn", "Which tokens count: every answer, the last one, all after the "
            "last question, or all.", "assistant|last|completion|all"),
]  # fmt: skip
System = Annotated[
    str | None, option(_DATA, "--system", "The system message of rows without one.", "TEXT")
]
Thinking = Annotated[
    str | None, option(_DATA, "--thinking", "As `chat --thinking` does.", "auto|off|on")
]
ChatTemplate = Annotated[
    str | None,
    option(_DATA, "--chat-template", "For a base without one: chatml, llama3, ... or a Jinja "
            "file.", "NAME|FILE"),
]  # fmt: skip
HeldOut = Annotated[
    str | None,
    option(_DATA, "--held-out", "Kept back to judge by: a share or a count.", "5%|20"),
]

Method = Annotated[str | None, option(_METHOD, "--method", "What learns.", "lora|rslora|dora|full")]
ObjectiveOption = Annotated[
    str | None,
    option(_METHOD, "--objective", "What is learned: answers, or preferences.",
            "auto|sft|dpo|orpo"),
]  # fmt: skip
Rank = Annotated[int | None, option(_METHOD, "--rank", "How much an adapter can hold.", "N")]
Alpha = Annotated[
    float | None, option(_METHOD, "--alpha", "How strongly it counts; twice the rank.", "X")
]
Targets = Annotated[
    list[str] | None,
    option(_METHOD, "--targets", "Layers that learn: all, attention, mlp or names (q_proj).",
            "NAME"),
]  # fmt: skip
Dropout = Annotated[float | None, option(_METHOD, "--dropout", "In the adapters.", "SHARE")]
Adapter = Annotated[
    str | None,
    option(_METHOD, "--adapter", "Go on from this adapter, made by finetune.", "NAME|FILE"),
]
AnyBase = Annotated[
    bool | None,
    option(_METHOD, "--any-base", "Although that adapter was trained on another model."),
]
BaseWeights = Annotated[
    str | None,
    option(_METHOD, "--base-weights", "The frozen base in its file's bytes (QLoRA), as "
            "numbers, or in bitsandbytes' NF4.", "auto|quantized|dense|nf4"),
]  # fmt: skip
Beta = Annotated[float | None, option(_METHOD, "--beta", "DPO's strength.", "X")]
OrpoWeight = Annotated[
    float | None, option(_METHOD, "--orpo-weight", "ORPO's weight of the preference.", "X")
]

Epochs = Annotated[float | None, option(_TRAIN, "--epochs", "Times through the data.", "X")]
Steps = Annotated[int | None, option(_TRAIN, "--steps", "In place of epochs.", "N")]
BatchSize = Annotated[int | None, option(_TRAIN, "--batch-size", "Examples a step.", "N")]
Lr = Annotated[float | None, option(_TRAIN, "--lr", "The highest learning rate.", "X")]
Schedule = Annotated[
    str | None, option(_TRAIN, "--schedule", "How it falls.", "cosine|linear|constant")
]
Warmup = Annotated[float | None, option(_TRAIN, "--warmup", "Share of the steps.", "SHARE")]
LrFloor = Annotated[
    float | None, option(_TRAIN, "--lr-floor", "Where it falls to, as a share.", "SHARE")
]
WeightDecay = Annotated[float | None, option(_TRAIN, "--weight-decay", "Of AdamW.", "X")]
MaxGradNorm = Annotated[
    float | None, option(_TRAIN, "--max-grad-norm", "Longer gradients are cut; 0 never.", "X")
]
Seed = Annotated[int | None, option(_TRAIN, "--seed", "The same seed, the same result.", "N")]

Device = Annotated[
    str | None,
    option(_MACHINE, "--device", "Where to compute; auto: a GPU that torch can use, else the CPU.",
            "auto|cpu|cuda[:N]|mps"),
]  # fmt: skip
PackTokens = Annotated[
    int | None, option(_MACHINE, "--pack-tokens", "Tokens computed at once.", "N")
]
Checkpointing = Annotated[
    str | None,
    option(_MACHINE, "--checkpointing", "Compute layers twice to save memory.", "auto|on|off"),
]
Precision = Annotated[
    str | None,
    option(_MACHINE, "--precision", "auto tries which is faster here.", "auto|f32|bf16|f16"),
]
Threads = Annotated[int | None, option(_MACHINE, "--threads", "Default: the cores.", "N")]
Shard = Annotated[
    str | None,
    option(_MACHINE, "--shard", "Part the model among the processes of torchrun or accelerate "
            "(FSDP); auto: where accelerate says so, or it would not fit.", "auto|on|off"),
]  # fmt: skip

EvalEvery = Annotated[int | None, option(_WATCH, "--eval-every", "Steps between evaluations.", "N")]
Patience = Annotated[
    int | None,
    option(_WATCH, "--patience", "Stop after so many evaluations without a better one.", "N"),
]
Keep = Annotated[
    str | None, option(_WATCH, "--keep", "The weights that judged best, or the last.", "best|last")
]
SaveEvery = Annotated[int | None, option(_WATCH, "--save-every", "Steps between saves.", "N")]
SampleEvery = Annotated[
    int | None, option(_WATCH, "--sample-every", "Steps between sample answers; 0 none.", "N")
]
Samples = Annotated[
    int | None, option(_WATCH, "--samples", "Sample answers, before and after.", "N")
]
SampleTokens = Annotated[
    int | None, option(_WATCH, "--sample-tokens", "Their length at most.", "N")
]
SamplePrompt = Annotated[
    list[str] | None,
    option(_WATCH, "--sample-prompt", "What to ask; default: from the held-out rows.", "TEXT"),
]
TensorBoard = Annotated[
    str | None,
    option(_WATCH, "--tensorboard", "Curves also as TensorBoard's event files.", "FOLDER"),
]
WandB = Annotated[
    str | None,
    option(_WATCH, "--wandb", "Curves also to Weights & Biases: figures, no data.", "PROJECT"),
]
