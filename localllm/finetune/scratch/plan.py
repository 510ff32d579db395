"""What a run is, once it is decided: kept beside its checkpoint, so that going on does the same.

The machine's speed has a say in the shape and the steps, and is not the same twice: a run that
is gone on with is not decided again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from localllm.errors import DamagedFile
from localllm.finetune.recipe import check_unchanged
from localllm.finetune.scratch.recipe import FIXED, TrainRecipe
from localllm.finetune.scratch.shape import Shape
from localllm.ui.outfile import replace_file

_VERSION = 2
PACK_TOKENS = 4096


@dataclass(frozen=True)
class Plan:
    """A run as decided. `rows` a step, of `shape.context` tokens; `n_held` held-out chunks are
    looked at at an evaluation."""

    asked: dict[str, Any]
    data: str  # sha256 of what it says
    tokenizer: str  # as JSON
    shape: Shape
    precision: str
    tokens_per_s: float
    peak_bytes: int
    rows: int
    steps: int
    lr: float
    dropout: float
    pack_tokens: int
    n_tokens: int  # of the text that is learned from
    tokens_per_step: float
    n_held: int
    thinned_bytes: int  # of text that is learned from, where there is more than can be seen

    @property
    def tokens_seen(self) -> float:
        return self.steps * self.tokens_per_step

    @property
    def epochs(self) -> float:
        return self.tokens_seen / max(1, self.n_tokens)

    @property
    def training_s(self) -> float:
        return self.tokens_seen / self.tokens_per_s

    def figures(self) -> dict[str, Any]:
        """What decided the result, for lineage."""
        return {
            **self.shape.as_json(), "precision": self.precision, "rows_per_step": self.rows,
            "steps": self.steps, "lr": self.lr, "dropout": self.dropout,
            "n_tokens": self.n_tokens,
        }  # fmt: skip


def save(plan: Plan, path: Path) -> None:
    """Raises DiskFull."""
    replace_file(path, json.dumps({"version": _VERSION, **asdict(plan)}))


def load(path: Path) -> Plan | None:
    """None where there is none. Raises DamagedFile."""
    try:
        values = json.loads(path.read_text("utf-8"))
        if values.pop("version") != _VERSION:
            raise ValueError("another version")
        return Plan(**{**values, "shape": Shape(**values["shape"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path.name} is no plan of a run: {error}", "add --restart") from None


def check_same(plan: Plan, recipe: TrainRecipe, data: str) -> None:
    """Raise UsageProblem where a run would go on with something else than it began with."""
    now = recipe.as_dict()
    check_unchanged(
        {"data": plan.data} | {key: plan.asked.get(key) for key in FIXED},
        {"data": data} | {key: now[key] for key in FIXED},
        "text",
    )


def gone_on(plan: Plan, recipe: TrainRecipe) -> Plan:
    """The plan with the pace that is named now."""
    precision = plan.precision if recipe.precision == "auto" else recipe.precision
    return replace(
        plan, lr=recipe.lr or plan.lr, steps=recipe.steps or plan.steps, precision=precision
    )
