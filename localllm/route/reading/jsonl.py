"""JSON lines: one object a prompt (or a vote), in any of the forms below.

    {"prompt": "...", "outcomes": {"small": 0, "large": 1}}             right or wrong, or 0 to 1
    {"prompt": "...", "small_correct": 0, "large_correct": 1}           the same
    {"prompt": "...", "small_score": 0.4, "large_score": 0.9}           where no _correct is given
    {"prompt": "...", "model_a": "small", "model_b": "large", "winner": "model_b"}    or "tie"

and optional in each: "benchmark" (or "source"), "domain" (or "subject"). Other fields are left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from localllm.errors import DamagedFile, FileGone, UsageProblem
from localllm.route.contrast import Contrast
from localllm.route.panel import Panel
from localllm.route.reading.rows import Row, panel_of_rows, quality_of

MAX_LINE = 64 * 2**20  # bytes: no prompt is this long, a file without line ends is
_TIES = ("tie", "tie (bothbad)", "both", "neither")
_CORRECT, _SCORE = "_correct", "_score"


@dataclass(frozen=True)
class Labels:
    """The fields that hold the outcomes of the weak and the strong model."""

    weak: str = "weak_correct"
    strong: str = "strong_correct"


def read_contrast(
    path: Path,
    labels: Labels | None = None,
    *,
    skip_without: bool = False,
    or_recorded: bool = False,
) -> Contrast:
    """Two models by the names of their fields. A line without them is an error, or is left out
    (`skip_without`), or is read by the default labels (`or_recorded`)."""
    wanted, recorded = labels or Labels(), Labels()
    prompts, weak, strong, domains, benchmarks = [], [], [], [], []
    for where, line in objects(path):
        fields = wanted
        if wanted.weak not in line or wanted.strong not in line:
            if skip_without:
                continue
            fields = recorded if or_recorded else wanted
        for name in (fields.weak, fields.strong):
            if name not in line:
                raise DamagedFile(f"{where} has no {name}")
        prompts.append(_prompt(line, where))
        weak.append(quality_of(line[fields.weak], where))
        strong.append(quality_of(line[fields.strong], where))
        domains.append(_text(line, ("domain", "subject"), where))
        benchmarks.append(_text(line, ("benchmark", "source"), where))
    return Contrast(
        tuple(prompts),
        np.array(weak, dtype=np.float64),
        np.array(strong, dtype=np.float64),
        tuple(domains),
        tuple(benchmarks),
    )


def read_jsonl(path: Path) -> Panel:
    """Every model that the file names. Raises FileGone, DamagedFile with the line, UsageProblem."""
    return panel_of_rows((row_of(line, where) for where, line in objects(path)), str(path))


def row_of(line: Mapping[str, Any], where: str) -> Row:
    """One object in any of this module's forms."""
    prompt = _prompt(line, where)
    qualities = _qualities(line, where)
    if not qualities:
        raise DamagedFile(f"{where} says of no model how it did on its prompt")
    return Row(
        prompt,
        qualities,
        _text(line, ("domain", "subject"), where),
        _text(line, ("benchmark", "source"), where),
    )


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line n", object) for every line that is not empty."""
    try:
        with path.open("rb") as file:
            for number in range(1, 2**62):
                raw = file.readline(MAX_LINE + 1)
                if not raw:
                    return
                where = f"{path}, line {number}"
                if len(raw) > MAX_LINE:
                    raise DamagedFile(f"{where} is longer than {MAX_LINE} bytes")
                if raw.strip():
                    yield where, _object(raw, where)
    except FileNotFoundError as error:
        raise FileGone(f"there is no file {path}") from error
    except OSError as error:
        raise FileGone(f"{path} cannot be read: {error.strerror}") from error


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{where} is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{where} is no JSON") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{where} is no JSON object")
    return value


def _qualities(line: Mapping[str, Any], where: str) -> dict[str, float]:
    if "winner" in line:
        return _vote(line, where)
    outcomes = line.get("outcomes")
    if isinstance(outcomes, dict):
        return {str(name): quality_of(value, where) for name, value in outcomes.items()}
    for ending in (_CORRECT, _SCORE):
        named = {
            name.removesuffix(ending): quality_of(value, where)
            for name, value in line.items()
            if name.endswith(ending) and name != ending
        }
        if named:
            return named
    return {}


def _vote(line: Mapping[str, Any], where: str) -> dict[str, float]:
    first, second, winner = line.get("model_a"), line.get("model_b"), line["winner"]
    if not isinstance(first, str) or not isinstance(second, str) or first == second:
        raise DamagedFile(f"{where}: a vote is between two models, model_a and model_b")
    if winner in ("model_a", first):
        return {first: 1.0, second: 0.0}
    if winner in ("model_b", second):
        return {first: 0.0, second: 1.0}
    if winner in _TIES:
        return {first: 0.5, second: 0.5}
    raise DamagedFile(f"{where}: the winner {str(winner)[:40]!r} is neither model and no tie")


def _prompt(line: Mapping[str, Any], where: str) -> str:
    prompt = line.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise DamagedFile(f"{where} has no prompt")
    return prompt


def _text(line: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    for name in names:
        value = line.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise DamagedFile(f"{where}: {name} is no text")
            return value
    return ""


def no_models_hint(path: Path) -> UsageProblem:
    return UsageProblem(
        f"{path} is not in a format that is read here",
        "JSON lines with prompt and outcomes; RouteLLM's .csv; AlpacaEval's annotations.json",
    )
