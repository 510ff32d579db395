"""What every file comes down to: a prompt, and the quality of some models' answers to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from localllm.errors import DamagedFile, UsageProblem
from localllm.route.panel import Panel

MAX_MODELS = 256


@dataclass(frozen=True)
class Row:
    prompt: str
    qualities: Mapping[str, float]  # by model, 0 to 1
    domain: str = ""
    benchmark: str = ""


@dataclass
class _Collected:
    domain: str
    benchmark: str
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def panel_of_rows(rows: Iterable[Row], where: str) -> Panel:
    """Rows of the same prompt and benchmark become one, several qualities of a model their mean
    (so votes that contradict each other count as the uncertainty that they are).

    Raises UsageProblem for no rows at all or more than MAX_MODELS models.
    """
    found: dict[tuple[str, str], _Collected] = {}
    models: dict[str, None] = {}
    for row in rows:
        held = found.setdefault((row.prompt, row.benchmark), _Collected(row.domain, row.benchmark))
        for model, quality in row.qualities.items():
            models.setdefault(model)
            held.sums[model] = held.sums.get(model, 0.0) + quality
            held.counts[model] = held.counts.get(model, 0) + 1
        if len(models) > MAX_MODELS:
            raise UsageProblem(f"{where} has more than {MAX_MODELS} models: is this its format?")
    if not found:
        raise UsageProblem(f"{where} has no prompts with outcomes")
    qualities = np.full((len(found), len(models)), np.nan)
    number = {model: i for i, model in enumerate(models)}
    for i, held in enumerate(found.values()):
        for model, total in held.sums.items():
            qualities[i, number[model]] = total / held.counts[model]
    return Panel(
        tuple(prompt for prompt, _ in found),
        tuple(models),
        qualities,
        tuple(held.domain for held in found.values()),
        tuple(held.benchmark for held in found.values()),
    )


def quality_of(value: object, where: str) -> float:
    """A truth value or a number from 0 to 1. DamagedFile for anything else, named by `where`."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float) and 0 <= value <= 1 and math.isfinite(value):
        return float(value)
    shown = str(value)[:40]
    raise DamagedFile(f"{where}: {shown!r} is no quality: true, false, or a number from 0 to 1")
