"""What options may say, each alone and beside the others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem
from localllm.finetune.training.schedule import SHAPES

if TYPE_CHECKING:
    from localllm.finetune.recipe import Recipe

METHODS = ("lora", "rslora", "dora", "full")
OBJECTIVES = ("auto", "sft", "dpo", "orpo")
WEIGHTS = ("auto", "quantized", "dense", "nf4")
PRECISIONS = ("auto", "f32", "bf16")
SWITCH = ("auto", "on", "off")
KEEP = ("best", "last")


def held_out(text: str) -> tuple[float, int | None]:
    """`5%` as (0.05, None), `20` as (0, 20). Raises UsageProblem."""
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if not 0 <= share < 1:
                raise ValueError
            return share, None
        count = int(text)
        if count < 0:
            raise ValueError
        return 0.0, count
    except ValueError:
        raise UsageProblem(f"--held-out {text!r} is no share and no count", "5% or 20") from None


def check_choices(recipe: Recipe) -> None:
    """Raise UsageProblem for words that an option does not know."""
    for key, allowed in (
        ("method", METHODS), ("objective", OBJECTIVES), ("base_weights", WEIGHTS),
        ("schedule", SHAPES), ("precision", (*PRECISIONS, "f16")), ("checkpointing", SWITCH),
        ("keep", KEEP), ("shard", SWITCH),
    ):  # fmt: skip
        value = getattr(recipe, key)
        if value not in allowed:
            option = key.replace("_", "-")
            raise UsageProblem(f"--{option} {value!r} is none of {', '.join(allowed)}")
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?|mps", recipe.device) is None:
        raise UsageProblem(f"--device {recipe.device!r} is none of auto, cpu, cuda, cuda:N, mps")


def check_ranges(recipe: Recipe) -> None:
    """Raise UsageProblem for numbers out of bounds."""
    bounds: tuple[tuple[str, float, float], ...] = (
        ("rank", 1, 4096), ("alpha", 1e-6, 1e6), ("dropout", 0, 0.99), ("beta", 1e-6, 1e3),
        ("orpo_weight", 0, 1e3), ("epochs", 1e-6, 1e5), ("steps", 1, 1e9), ("batch_size", 1, 1e6),
        ("lr", 0, 10), ("warmup", 0, 1), ("lr_floor", 0, 1), ("weight_decay", 0, 10),
        ("max_grad_norm", 0, 1e9), ("seed", 0, 2**31 - 1), ("pack_tokens", 8, 1e7),
        ("threads", 1, 4096), ("eval_every", 1, 1e9), ("patience", 1, 1e6),
        ("save_every", 1, 1e9), ("sample_every", 0, 1e9), ("samples", 0, 100),
        ("sample_tokens", 1, 4096), ("limit", 1, 1e12),
    )  # fmt: skip
    check_bounds(recipe, bounds)


def check_bounds(recipe: object, bounds: Iterable[tuple[str, float, float]]) -> None:
    """Raise UsageProblem for a number of `recipe` outside the bounds of its key, ends included."""
    for key, low, high in bounds:
        value = getattr(recipe, key)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise UsageProblem(
                f"--{key.replace('_', '-')} {value:g} is not between {low:g} and {high:g}"
            )


def check_together(recipe: Recipe) -> None:
    """Raise UsageProblem for options that would do nothing beside the others."""
    makes_adapter = recipe.method in ("lora", "rslora")
    if recipe.method == "full":
        for key in ("dropout", "rank", "alpha", "targets"):
            if getattr(recipe, key) != getattr(type(recipe), key):
                raise UsageProblem(f"--{key} is of adapters; --method full has none")
        if recipe.base_weights in ("quantized", "nf4"):
            raise UsageProblem(
                f"--base-weights {recipe.base_weights} is of a base that stays as it is; "
                "--method full changes it",
                "--method lora",
            )
    if recipe.method == "dora" and recipe.shard == "on":
        raise UsageProblem(
            "--method dora needs each layer's weights whole: it cannot be sharded", "--method lora"
        )
    if recipe.base_weights == "nf4" and recipe.shard == "on":
        raise UsageProblem(
            "--base-weights nf4 packs whole matrices: it cannot be sharded",
            "--base-weights quantized",
        )
    if recipe.precision == "f16" and recipe.device == "cpu":
        raise UsageProblem("--precision f16 is for GPUs", "--precision bf16, or f32")
    if recipe.adapter is not None and not makes_adapter:
        raise UsageProblem(
            f"--method {recipe.method} cannot go on from an adapter",
            "--method lora, or merge it first: localllm merge BASE --lora ADAPTER",
        )
    if recipe.sample_every and not makes_adapter:
        raise UsageProblem(
            f"--sample-every shows an adapter at work; --method {recipe.method} gives a whole "
            "model",
            "--samples shows answers before and after",
        )
    if held_out(recipe.held_out) in ((0.0, None), (0.0, 0)) and recipe.patience is not None:
        raise UsageProblem(
            "--patience looks at held-out examples, and --held-out keeps none",
            "--held-out 5%, or no --patience",
        )
