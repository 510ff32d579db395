"""Judged answers of a weak member, with the signals that it gave: what `route label` wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from localllm.errors import DamagedFile, UsageProblem
from localllm.route.contrast import Contrast, Floats
from localllm.route.pool.steps import SIGNALS, CascadeStep
from localllm.route.reading.jsonl import objects, row_of


@dataclass(frozen=True)
class Signalled:
    """`contrast` has one row a prompt, `signals` of each one number a row, 0 to 1. `n_left_out`
    prompts lacked a signal of the weak member, or the strong one's answer."""

    contrast: Contrast
    signals: Mapping[str, Floats]
    n_left_out: int

    def __len__(self) -> int:
        return len(self.contrast)

    def take(self, which: np.ndarray) -> Signalled:
        """The rows where the mask is true."""
        kept = {name: values[which] for name, values in self.signals.items()}
        return Signalled(self.contrast.take(which), kept, self.n_left_out)


@dataclass
class _Held:
    domain: str
    benchmark: str
    signals: Mapping[str, float] | None = None
    weak: list[float] = field(default_factory=list)
    strong: list[float] = field(default_factory=list)


def read_signals(
    paths: Sequence[Path], step: CascadeStep, weak: str | None = None, strong: str | None = None
) -> Signalled:
    """`weak` and `strong` are what the files call the members, if not by their names. What the
    weak one said without giving its signals is not read: it is another answer than the judged.
    Raises FileGone, DamagedFile naming the line, UsageProblem where no row is whole."""
    names = (weak or step.weak, strong or step.strong)
    found: dict[str, _Held] = {}
    for path in paths:
        for where, line in objects(path):
            row = row_of(line, where)
            held = found.setdefault(row.prompt, _Held(row.domain, row.benchmark))
            signals = _signals(line, where)
            if names[0] in row.qualities and all(name in signals for name in step.signals):
                held.weak.append(row.qualities[names[0]])
                held.signals = signals
            if names[1] in row.qualities:
                held.strong.append(row.qualities[names[1]])
    whole = {p: one for p, one in found.items() if one.signals is not None and one.strong}
    if not whole:
        raise UsageProblem(
            f"no prompt has both {names[1]}'s outcome and {names[0]}'s with its signals "
            f"({', '.join(step.signals)})",
            "localllm route label NAME --prompts FILE --out FILE",
        )
    rows = list(whole.values())
    contrast = Contrast(
        tuple(whole), np.array([np.mean(one.weak) for one in rows]),
        np.array([np.mean(one.strong) for one in rows]), tuple(one.domain for one in rows),
        tuple(one.benchmark for one in rows),
    )  # fmt: skip
    kept: dict[str, Floats] = {
        name: np.array([(one.signals or {})[name] for one in rows]) for name in step.signals
    }
    return Signalled(contrast, kept, len(found) - len(whole))


def _signals(line: Mapping[str, Any], where: str) -> Mapping[str, float]:
    given = line.get("signals", {})
    if not isinstance(given, dict):
        raise DamagedFile(f"{where}: its signals are no object")
    for name, value in given.items():
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in SIGNALS or not fits or not (math.isfinite(value) and 0 <= value <= 1):
            raise DamagedFile(f"{where}: signal {str(name)[:40]!r} is no number from 0 to 1")
    return {str(name): float(value) for name, value in given.items()}
