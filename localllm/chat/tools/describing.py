"""A Python function as a tool: its name, what it does, and a JSON schema of its arguments.

Types come from the hints, descriptions from the docstring (Google's "Args:", or ":param x:").
"""

from __future__ import annotations

import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_SIMPLE: Mapping[Any, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null",
    dict: "object", list: "array", tuple: "array", set: "array", bytes: "string", Path: "string",
}  # fmt: skip
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Notes?):\s*$")
_ARGUMENT = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_PARAM = re.compile(r"^:param\s+(?:\S+\s+)?(\w+):\s*(.*)$")


def tool_functions(module: types.ModuleType) -> dict[str, Callable[..., Any]]:
    """Functions that are the file's own and public, in the order they stand in."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        and value.__module__ == module.__name__
    }


def describe(function: Callable[..., Any]) -> dict[str, Any]:
    """`{"name", "description", "parameters"}`, as toolcalls.Tool takes them."""
    text, notes = _documented(inspect.getdoc(function) or "")
    hints = typing.get_type_hints(function, include_extras=True)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        schema = schema_of(hints.get(parameter.name, Any))
        if note := notes.get(parameter.name):
            schema["description"] = note
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        elif _is_json(parameter.default):
            schema["default"] = parameter.default
        properties[parameter.name] = schema
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"name": function.__name__, "description": text, "parameters": parameters}


def schema_of(hint: Any) -> dict[str, Any]:
    """A JSON schema of a type; {} for what has none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        schema = schema_of(arguments[0])
        words = [word for word in arguments[1:] if isinstance(word, str)]
        return schema | ({"description": words[0]} if words else {})
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(one) for one in arguments]}
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    base = origin or hint
    if base is dict:
        values = schema_of(arguments[1]) if len(arguments) == 2 else {}
        return {"type": "object"} | ({"additionalProperties": values} if values else {})
    if base in (list, set, tuple, Sequence):
        items = schema_of(arguments[0]) if arguments else {}
        return {"type": "array"} | ({"items": items} if items else {})
    return {"type": _SIMPLE[base]} if base in _SIMPLE else {}


def fitted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from JSON in the types that the function hints at, for enums and paths."""
    hints = typing.get_type_hints(function)
    return {name: _as(hints.get(name), value) for name, value in arguments.items()}


def _as(hint: Any, value: Any) -> Any:
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return hint(value)
    return Path(value) if hint is Path and isinstance(value, str) else value


def _documented(text: str) -> tuple[str, dict[str, str]]:
    """What a docstring says of the function, and of each of its arguments."""
    said: list[str] = []
    notes: dict[str, str] = {}
    section, last = "", ""
    for line in text.splitlines():
        stripped = line.strip()
        if match := _SECTION.match(stripped):
            section, last = match[1], ""
        elif match := _PARAM.match(stripped):
            section, last = "Args", match[1]
            notes[last] = match[2]
        elif section in ("Args", "Arguments", "Parameters"):
            match = _ARGUMENT.match(stripped)
            if match:
                last = match[1]
                notes[last] = match[2]
            elif last and stripped:
                notes[last] = f"{notes[last]} {stripped}".strip()
        elif not section:
            said.append(line)
    return "\n".join(said).strip(), notes


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
