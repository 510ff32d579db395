"""Everything that decides what `train` makes: on the command line, in a file, with the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from localllm.errors import UsageProblem
from localllm.finetune.checks import check_bounds
from localllm.finetune.recipe import KEEP, PRECISIONS, Recipe, checked, held_out
from localllm.finetune.training.schedule import SHAPES

TYPES = ("F16", "BF16", "F32")
LEARN = ("all", "assistant")
BUDGET = 30.0  # minutes, where neither steps nor epochs are named
OPTIMIZERS = ("muon", "adamw")


@dataclass(frozen=True)
class TrainRecipe:
    """All options of `train`. None means: decided by the data, the machine and the budget."""

    # what
    name: str | None = None
    data: tuple[str, ...] = ()
    # the data
    format: str | None = None
    column: tuple[str, ...] = ()
    bad_rows: str = "skip"
    duplicates: str = "drop"
    limit: int | None = None
    held_out: str | None = None
    learn: str = "all"
    # the model
    vocab_size: int | None = None
    context: int = 512
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ff: int | None = None
    type: str = "F16"
    # the training
    budget: float | None = None
    epochs: float | None = None
    steps: int | None = None
    batch_tokens: int | None = None
    optimizer: str = "muon"
    lr: float | None = None
    schedule: str = "linear"
    warmup: float = 0.03
    lr_floor: float = 0.0
    weight_decay: float = 0.1
    dropout: float | None = None
    max_grad_norm: float = 1.0
    seed: int = 0
    # the machine
    pack_tokens: int | None = None
    precision: str = "auto"
    threads: int | None = None
    # looking, keeping
    eval_every: int | None = None
    patience: int | None = None
    keep: str = "best"
    save_every: int | None = None
    samples: int = 3
    sample_tokens: int = 64
    sample_prompt: tuple[str, ...] = ()
    tensorboard: str | None = None
    wandb: str | None = None

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)
        _check_together(self)

    @property
    def minutes(self) -> float | None:
        """The budget, None where steps or epochs are named."""
        if self.budget is None and self.steps is None and self.epochs is None:
            return BUDGET
        return self.budget

    def as_dict(self) -> dict[str, Any]:
        """Plain values, tuples as lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def lineage(self) -> dict[str, Any]:
        """What decides the result: not what it is called, where the data lies (what it says has a
        digest) or how it was watched."""
        beside = (
            "name", "data", "threads", "samples", "sample_tokens", "sample_prompt", "tensorboard",
            "wandb",
        )  # fmt: skip
        return {k: v for k, v in self.as_dict().items() if k not in beside and v is not None}


# What a resumed run may not change: the weights learned so far, or its steps, would mean
# something else. The rest is its pace, or decided at the end.
FIXED = (
    "format", "column", "limit", "held_out", "learn", "bad_rows", "duplicates",
    "vocab_size", "context", "width", "layers", "heads", "kv_heads", "ff", "budget", "epochs",
    "batch_tokens", "optimizer", "dropout", "seed",
)  # fmt: skip


def merged(file: Mapping[str, Any], given: Mapping[str, Any]) -> TrainRecipe:
    """The recipe of a file's values and, over them, those of the command line that are not None.

    Raises UsageProblem for keys and values that are none.
    """
    told = {k: v for k, v in given.items() if v not in (None, (), [])}
    values = dict(checked(file, kind=TrainRecipe)) | told
    if isinstance(values.get("type"), str):
        values["type"] = values["type"].upper()
    ready: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return TrainRecipe(**ready)


def for_trainer(recipe: TrainRecipe, *, steps: int, rows: int, lr: float) -> Recipe:
    """What the loop of fine-tuning is told: every weight learns, each token counts."""
    return Recipe(
        method="full", objective="sft", learn="all", steps=steps, batch_size=rows, lr=lr,
        schedule=recipe.schedule, warmup=recipe.warmup, lr_floor=recipe.lr_floor,
        weight_decay=recipe.weight_decay, max_grad_norm=recipe.max_grad_norm, seed=recipe.seed,
        eval_every=recipe.eval_every, patience=recipe.patience, keep=recipe.keep,
        save_every=recipe.save_every, samples=0,
    )  # fmt: skip


def _check_choices(recipe: TrainRecipe) -> None:
    for key, allowed in (
        ("schedule", SHAPES), ("precision", PRECISIONS), ("keep", KEEP), ("type", TYPES),
        ("learn", LEARN), ("optimizer", OPTIMIZERS),
    ):  # fmt: skip
        value = getattr(recipe, key)
        if value not in allowed:
            raise UsageProblem(f"--{key} {value!r} is none of {', '.join(allowed)}")


def _check_ranges(recipe: TrainRecipe) -> None:
    bounds: tuple[tuple[str, float, float], ...] = (
        ("vocab_size", 300, 65536), ("context", 32, 1 << 20), ("width", 32, 4096),
        ("layers", 1, 128), ("heads", 1, 128), ("kv_heads", 1, 128), ("ff", 32, 32768),
        ("budget", 0.05, 1e5), ("epochs", 1e-6, 1e5), ("steps", 1, 1e9),
        ("batch_tokens", 32, 1e7), ("lr", 0, 10), ("warmup", 0, 1), ("lr_floor", 0, 1),
        ("weight_decay", 0, 10), ("dropout", 0, 0.9), ("max_grad_norm", 0, 1e9),
        ("seed", 0, 2**31 - 1), ("pack_tokens", 8, 1e7), ("threads", 1, 4096),
        ("eval_every", 1, 1e9), ("patience", 1, 1e6), ("save_every", 1, 1e9),
        ("samples", 0, 100), ("sample_tokens", 1, 4096), ("limit", 1, 1e12),
    )  # fmt: skip
    check_bounds(recipe, bounds)


def _check_together(recipe: TrainRecipe) -> None:
    """Raise UsageProblem for options that contradict each other."""
    named = [key for key in ("budget", "epochs", "steps") if getattr(recipe, key) is not None]
    if len(named) > 1:
        raise UsageProblem(f"--{named[0]} and --{named[1]} both say how long: name one")
    if recipe.held_out is not None and held_out(recipe.held_out) in ((0.0, None), (0.0, 0)):
        raise UsageProblem(
            "--held-out keeps nothing, and a model that nobody judges is not registered",
            "--held-out 5%",
        )
    for key in ("width", "ff"):
        value = getattr(recipe, key)
        if value is not None and value % 32:
            raise UsageProblem(
                f"--{key} {value} is no multiple of 32, the block that quantization stores",
                f"--{key} {-(-value // 32) * 32}",
            )
