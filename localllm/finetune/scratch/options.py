"""The options of `train` that `finetune` has not, or means otherwise."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.finetune.options import option

_DATA, _MODEL, _TRAIN, _WATCH = "Data", "The model", "Training", "Looking and keeping"


Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="What to call the model; may stand in the recipe.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check the data, choose a shape, say what it takes."),
]
Format = Annotated[
    str | None,
    option(_DATA, "--format", "What the rows are, where it is not plain.",
            "text|chat|sharegpt|alpaca|completion|qa"),
]  # fmt: skip
HeldOut = Annotated[
    str | None,
    option(_DATA, "--held-out", "Kept back to judge by: a share of the text, or a count of "
            "documents. Default: 5%, at most 1 MiB.", "5%|20"),
]  # fmt: skip
Duplicates = Annotated[
    str | None, option(_DATA, "--duplicates", "Documents that say the same.", "drop|keep")
]
Learn = Annotated[
    str | None,
    option(_DATA, "--learn", "Of conversations: every token counts, or answers only.",
            "all|assistant"),
]  # fmt: skip
VocabSize = Annotated[
    int | None, option(_MODEL, "--vocab-size", "Tokens; default by the size of the text.", "N")
]
Context = Annotated[int | None, option(_MODEL, "--context", "Tokens it sees; default 512.", "N")]
Width = Annotated[
    int | None,
    option(_MODEL, "--width", "Numbers a token; a multiple of 32, of 256 for K quants.", "N"),
]
Layers = Annotated[int | None, option(_MODEL, "--layers", "One after the other.", "N")]
Heads = Annotated[int | None, option(_MODEL, "--heads", "Of attention; width / 64.", "N")]
KvHeads = Annotated[
    int | None, option(_MODEL, "--kv-heads", "Of keys and values; fewer save memory.", "N")
]
Ff = Annotated[int | None, option(_MODEL, "--ff", "Feed-forward; 8/3 of the width.", "N")]
Type = Annotated[str | None, option(_MODEL, "--type", "Of the file's weights.", "F16|BF16|F32")]
Budget = Annotated[
    float | None,
    option(_TRAIN, "--budget", "Minutes that decide size and steps, by a trial of this machine; "
            "default 30.", "MINUTES"),
]  # fmt: skip
Epochs = Annotated[
    float | None, option(_TRAIN, "--epochs", "Times through the text, in place of it.", "X")
]
Steps = Annotated[int | None, option(_TRAIN, "--steps", "In place of both.", "N")]
BatchTokens = Annotated[int | None, option(_TRAIN, "--batch-tokens", "Tokens a step.", "N")]
Optimizer = Annotated[str | None, option(_TRAIN, "--optimizer", "How weights move.", "muon|adamw")]
Dropout = Annotated[
    float | None,
    option(_TRAIN, "--dropout", "Default: the more, the more often the text is read.", "SHARE"),
]
Samples = Annotated[int | None, option(_WATCH, "--samples", "Texts it goes on with.", "N")]
SamplePrompt = Annotated[
    list[str] | None,
    option(_WATCH, "--sample-prompt", "Beginnings; default: of held-out texts.", "TEXT"),
]
