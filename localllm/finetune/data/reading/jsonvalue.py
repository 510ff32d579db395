"""JSON as rows want it: what the standard parser lets through in silence is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from localllm.finetune.data.rows import RowProblem

NOT_UTF8 = "not UTF-8"
NO_JSON = "no JSON"


def parse(text: str) -> Any:
    """A value. NaN, which pandas writes for what is missing, becomes None.

    Raises RowProblem: no JSON, nested too deeply, the same key twice in an object, half a
    character (a lone surrogate).
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise RowProblem(NO_JSON, "its JSON is nested too deeply") from None
    except ValueError as error:
        raise RowProblem(NO_JSON, f"no JSON: {_short(error)}") from None
    if "\\ud" in text or "\\uD" in text:
        check_surrogates(value)
    return value


def decoder() -> json.JSONDecoder:
    """The same rules, for values one after another. Raises what `parse` does, and ValueError."""
    return json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def check_surrogates(value: Any) -> None:
    """Raise RowProblem where a text holds half a character, which no UTF-8 can say."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise RowProblem(NOT_UTF8, "it holds half a character (a lone surrogate)") from None


def as_row(value: Any) -> Mapping[str, Any]:
    """An object as it is; a list of messages as if it stood under "messages"."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return {"messages": value}
    if isinstance(value, str):
        return {"text": value}
    raise RowProblem("no object", f"a row is an object with columns, not {_kind(value)}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RowProblem("a key twice", f"it has the key {twice!r} twice")
    return made


def _constant(name: str) -> None:
    return None


def _kind(value: Any) -> str:
    names = {list: "a list", int: "a number", float: "a number", bool: "a truth value"}
    return "nothing (null)" if value is None else names.get(type(value), type(value).__name__)


def _short(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):  # its own words tell of lines within the text
        return f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
    return " ".join(str(error).split())[:120]
