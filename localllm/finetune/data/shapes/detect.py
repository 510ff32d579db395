"""Which format rows have, by their columns, with the evidence for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from localllm.errors import UsageProblem
from localllm.finetune.data.rows import RawRow, RowAt
from localllm.finetune.data.spec import FORMAT_NAMES, Format

# Names that people give to the columns of each role, the likeliest first.
MESSAGES = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns")
PROMPTS = ("prompt", "question", "query", "instruction", "input", "user", "human", "problem")
ANSWERS = (
    "completion", "answer", "response", "output", "assistant", "reply", "solution", "target",
    "chosen_response",
)  # fmt: skip
TEXTS = ("text", "content", "document", "body", "markdown", "code")
CONTEXTS = ("context", "passage")
SYSTEMS = ("system", "system_prompt")


@dataclass(frozen=True)
class Shape:
    """A format and which column plays which role."""

    format: Format
    columns: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.columns:
            return FORMAT_NAMES[self.format]
        said = ", ".join(f"{role} = {name}" for role, name in self.columns.items())
        return f"{FORMAT_NAMES[self.format]} ({said})"


def shape_of(
    row: Mapping[str, Any], given: Mapping[str, str], wanted: Format | None = None
) -> Shape | None:
    """What `row` is; None for nothing known. `given` says which column has which role, `wanted`
    which format to look for."""
    finders = (_preference, _turns, _alpaca, _answered, _text)
    for find in finders:
        found = find(row, given)
        if found is not None and (wanted is None or found.format == wanted):
            return found
    if wanted in ("completion", "qa", "alpaca"):
        found = _answered(row, given)
        return None if found is None else Shape(wanted, found.columns)
    return None


def _preference(row: Mapping[str, Any], given: Mapping[str, str]) -> Shape | None:
    chosen = _column(row, given, "chosen", ("chosen",))
    rejected = _column(row, given, "rejected", ("rejected",))
    if chosen is None or rejected is None:
        return None
    columns = {"chosen": chosen, "rejected": rejected}
    prompt = _column(row, given, "prompt", PROMPTS)
    return Shape("preference", ({"prompt": prompt} if prompt else {}) | columns)


def _turns(row: Mapping[str, Any], given: Mapping[str, str]) -> Shape | None:
    name = _column(row, given, "messages", MESSAGES)
    turns = row.get(name) if name else None
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        kind: Format = "sharegpt" if '"from"' in turns and '"role"' not in turns else "chat"
        return Shape(kind, {"messages": name or ""})
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], Mapping):
        return None
    if "from" in turns[0]:
        return Shape("sharegpt", {"messages": name or ""})
    return Shape("chat", {"messages": name or ""}) if "role" in turns[0] else None


def _alpaca(row: Mapping[str, Any], given: Mapping[str, str]) -> Shape | None:
    if "prompt" in given or "answer" in given or "instruction" not in row or "output" not in row:
        return None
    columns = {"prompt": "instruction", "answer": "output"}
    context = _column(row, given, "context", ("input",))
    return Shape(
        "alpaca", columns | ({"context": context} if context else {}) | _system(row, given)
    )


def _answered(row: Mapping[str, Any], given: Mapping[str, str]) -> Shape | None:
    prompt = _column(row, given, "prompt", PROMPTS)
    answer = _column(row, given, "answer", ANSWERS)
    if prompt is None or answer is None or prompt == answer:
        return None
    columns = {"prompt": prompt, "answer": answer} | _system(row, given)
    contexts = CONTEXTS if prompt == "input" else (*CONTEXTS, "input")
    if context := _column(row, given, "context", contexts):
        columns["context"] = context
    kind: Format = "completion" if prompt == "prompt" and answer == "completion" else "qa"
    return Shape(kind, columns)


def _text(row: Mapping[str, Any], given: Mapping[str, str]) -> Shape | None:
    name = _column(row, given, "text", TEXTS)
    return Shape("text", {"text": name}) if name and isinstance(row[name], str | None) else None


def _system(row: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    name = _column(row, given, "system", SYSTEMS)
    return {"system": name} if name else {}


def _column(
    row: Mapping[str, Any], given: Mapping[str, str], role: str, names: tuple[str, ...]
) -> str | None:
    """The column of `row` that has `role`: the one the user names, or the likeliest name."""
    if role in given:
        return given[role] if given[role] in row else None
    taken = set(given.values())
    by_name = {name.lower(): name for name in row if name not in taken}
    return next((by_name[name] for name in names if name in by_name), None)


@dataclass(frozen=True)
class Detected:
    """The format of all rows looked at. `evidence` are sentences for people."""

    shape: Shape
    evidence: tuple[str, ...]


def detect(rows: Iterable[RawRow], given: Mapping[str, str], wanted: Format | None) -> Detected:
    """One shape for all of `rows`. Raises UsageProblem where they have two (naming a line of each)
    or none is known, with the columns that there are."""
    seen: dict[Format, tuple[Shape, RowAt, int]] = {}
    unknown: RawRow | None = None
    for row in rows:
        shape = shape_of(row.value, given, wanted)
        if shape is None:
            unknown = unknown or row
            continue
        held = seen.get(shape.format)
        # the row with the most columns says the most
        best = held[0] if held and len(held[0].columns) >= len(shape.columns) else shape
        seen[shape.format] = (best, held[1] if held else row.at, (held[2] if held else 0) + 1)
    if len(seen) > 1:
        raise mixed([(shape, at) for shape, at, _ in seen.values()])
    if not seen:
        raise _nothing(unknown, given, wanted)
    shape, at, count = next(iter(seen.values()))
    rows_are = f"{count} rows have" if count > 1 else "1 row has"
    columns = ", ".join(sorted(set(shape.columns.values())))
    evidence = [f"{rows_are} the columns {columns} (first: {at})"]
    if unknown is not None:
        evidence.append(f"{unknown.at} has not")
    return Detected(shape, tuple(evidence))


def mixed(found: list[tuple[Shape, RowAt]]) -> UsageProblem:
    said = "; ".join(f"{FORMAT_NAMES[shape.format]} ({at})" for shape, at in found)
    return UsageProblem(
        f"the rows are of several formats: {said}", "one file a format, or name one: --format chat"
    )


def _nothing(row: RawRow | None, given: Mapping[str, str], wanted: Format | None) -> UsageProblem:
    if row is None:
        return UsageProblem("the data has no rows")
    columns = ", ".join(list(row.value)[:12]) or "none"
    missing = next((name for name in given.values() if name not in row.value), None)
    if missing is not None:
        return UsageProblem(f"{row.at} has no column {missing!r}; its columns are {columns}")
    what = f"rows of {FORMAT_NAMES[wanted]}" if wanted else "a known format"
    return UsageProblem(
        f"{row.at}: the columns {columns} are not {what}",
        "say which is what: --column prompt=NAME --column answer=NAME",
    )
