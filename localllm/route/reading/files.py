"""Any file that can be learned from, by its name and its first bytes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from localllm.errors import DamagedFile, FileGone, UsageProblem
from localllm.route.panel import Panel
from localllm.route.reading.jsonl import no_models_hint, objects, read_jsonl
from localllm.route.reading.rows import Row, panel_of_rows

_TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
_MMLU_FILE = "mmlu_"
MAX_ARRAY = 2**30  # bytes of one JSON document; AlpacaEval's largest has 60 MB


def read_panel(path: Path) -> Panel:
    """Reads JSON lines, RouteLLM's evaluation tables and judge data, AlpacaEval's annotations.

    Raises FileGone, DamagedFile naming the line, UsageProblem for another format.
    """
    if path.suffix.lower() == ".csv":
        return panel_of_rows(_csv_rows(path), str(path))
    start = _beginning(path)
    if start.startswith(b"["):
        return panel_of_rows(_alpaca_rows(path), str(path))
    if not start.startswith(b"{"):
        raise no_models_hint(path)
    _, first = next(iter(objects(path)))
    if "mixtral_score" in first and "gpt4_response" in first:
        return panel_of_rows(_judged_rows(path), str(path))
    return read_jsonl(path)


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except FileNotFoundError as error:
        raise FileGone(f"there is no file {path}") from error
    except OSError as error:
        raise FileGone(f"{path} cannot be read: {error.strerror}") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    """RouteLLM's evals/*/*.csv: `prompt`, and a column of True and False for every model.

    MMLU has one file a subject, which only the file's name gives. Columns with anything else
    (the answers themselves) are left.
    """
    name = path.stem
    is_mmlu = name.startswith(_MMLU_FILE)
    domain = name.removeprefix(_MMLU_FILE) if is_mmlu else ""
    benchmark = "mmlu" if is_mmlu else name.split("_")[0]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # an answer can be far longer than the field limit of 128 KiB
            csv.field_size_limit(2**31 - 1)
            table = list(csv.DictReader(file, strict=True))
    except FileNotFoundError as error:
        raise FileGone(f"there is no file {path}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is no table of comma-separated values: {error}") from error
    except OSError as error:
        raise FileGone(f"{path} cannot be read: {error.strerror}") from error
    models = _model_columns(table)
    if not models:
        raise UsageProblem(f"{path} has no column of True and False, or no column `prompt`")
    for line in table:
        yield Row(line["prompt"], {m: _TRUTH[line[m].lower()] for m in models}, domain, benchmark)


def _model_columns(table: list[dict[str, str]]) -> list[str]:
    if not table or any(not line.get("prompt") for line in table):
        return []
    return [
        name
        for name in table[0]
        if name  # pandas writes its index under no name
        and all(str(line.get(name)).lower() in _TRUTH for line in table)
    ]


def _judged_rows(path: Path) -> Iterator[Row]:
    """RouteLLM's gpt4_dataset: a judge gave Mixtral's answer 1 to 5, GPT-4's is the reference.

    5 is "as good as the reference", so qualities are (score - 1) / 4 and 1.
    """
    for where, line in objects(path):
        score, prompt = line.get("mixtral_score"), line.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise DamagedFile(f"{where} has no prompt")
        # a score as text is what the published file has in some rows
        value = _number(score)
        if value is None or not 1 <= value <= 5:
            raise DamagedFile(f"{where}: mixtral_score is not a number from 1 to 5")
        yield Row(prompt, {"mixtral": (value - 1) / 4, "gpt4": 1.0})


def _alpaca_rows(path: Path) -> Iterator[Row]:
    """AlpacaEval's annotations.json: preference 1 for output_1, 2 for output_2, or in between.

    null (the annotator's answer could not be read) is left out, as AlpacaEval does.
    """
    if path.stat().st_size > MAX_ARRAY:
        raise UsageProblem(f"{path} is larger than {MAX_ARRAY} bytes: write it as JSON lines")
    try:
        entries = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is no JSON") from error
    for number, entry in enumerate(entries):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or "preference" not in entry:
            raise DamagedFile(f"{where} is no annotation: it has no preference")
        row = _alpaca_row(entry, where)
        if row is not None:
            yield row


def _alpaca_row(entry: Mapping[str, Any], where: str) -> Row | None:
    prompt, names = entry.get("instruction"), (entry.get("generator_1"), entry.get("generator_2"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise DamagedFile(f"{where} has no instruction")
    if not all(isinstance(name, str) and name for name in names) or names[0] == names[1]:
        raise DamagedFile(f"{where} does not name two generators")
    if entry["preference"] is None:
        return None
    preference = _number(entry["preference"])
    if preference is None:
        raise DamagedFile(f"{where}: its preference is no number")
    if not 1 <= preference <= 2:  # 0 and -1 stand for "no answer" in older files
        return None
    benchmark = entry.get("dataset")
    return Row(
        prompt,
        {str(names[0]): 2 - preference, str(names[1]): preference - 1},
        benchmark=benchmark if isinstance(benchmark, str) else "",
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
