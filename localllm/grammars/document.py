"""A JSON schema as a document: its parts by JSON pointer, with bounds on what may be hostile."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

from localllm.errors import UsageProblem

MAX_PARTS = 50_000
MAX_DEPTH = 128
ROOT = "#"


def refusal(pointer: str, why: str) -> UsageProblem:
    return UsageProblem(f"the JSON schema at {pointer}: {why}")


def refuse(pointer: str, why: str) -> NoReturn:
    raise refusal(pointer, why)


def child(pointer: str, *keys: str | int) -> str:
    """The pointer of a part below `pointer`."""
    return "/".join([pointer, *(str(k).replace("~", "~0").replace("/", "~1") for k in keys)])


class Document:
    """The schema. Raises UsageProblem for one that is no JSON, too large or too deep."""

    def __init__(self, schema: Mapping[str, Any] | bool) -> None:
        if not isinstance(schema, Mapping | bool):
            raise UsageProblem(f"a JSON schema is an object, not {_kind(schema)}")
        self.schema = schema
        self._check()

    def _check(self) -> None:
        parts = 0
        waiting: list[tuple[Any, int]] = [(self.schema, 0)]
        while waiting:
            value, depth = waiting.pop()
            parts += 1
            if parts > MAX_PARTS:
                raise UsageProblem(f"the JSON schema has more than {MAX_PARTS} values")
            if depth > MAX_DEPTH:
                raise UsageProblem(f"the JSON schema nests deeper than {MAX_DEPTH}")
            if isinstance(value, Mapping):
                if not all(isinstance(key, str) for key in value):
                    raise UsageProblem("the JSON schema has a key that is no string")
                waiting += [(one, depth + 1) for one in value.values()]
            elif isinstance(value, list | tuple):
                waiting += [(one, depth + 1) for one in value]
            elif isinstance(value, float) and not math.isfinite(value):
                raise UsageProblem("the JSON schema holds a number that is not finite")
            elif value is not None and not isinstance(value, str | int | float):
                raise UsageProblem(f"the JSON schema holds {_kind(value)}, which is no JSON")
            elif isinstance(value, int) and value.bit_length() > 256:
                raise UsageProblem("the JSON schema holds a number of more than 77 digits")

    def at(self, pointer: str) -> Mapping[str, Any] | bool:
        """The schema at `pointer`, which one of ours or a $ref gave."""
        value: Any = self.schema
        for part in pointer.split("/")[1:]:
            value = self._step(value, part.replace("~1", "/").replace("~0", "~"), pointer)
        if not isinstance(value, Mapping | bool):
            refuse(pointer, f"a schema is an object, not {_kind(value)}")
        return value

    def target(self, reference: Any, pointer: str) -> str:
        """The pointer that the $ref at `pointer` leads to."""
        if not isinstance(reference, str) or not reference.startswith(ROOT):
            refuse(pointer, f"the $ref {_short(reference)} leads out of the schema")
        fragment = unquote(reference[1:])
        if fragment and not fragment.startswith("/"):
            refuse(pointer, f"the $ref {_short(reference)} is no JSON pointer like #/$defs/name")
        found = ROOT + fragment
        self.at(found)
        return found

    def _step(self, value: Any, key: str, pointer: str) -> Any:
        if isinstance(value, Mapping) and key in value:
            return value[key]
        if isinstance(value, list | tuple) and key.isdigit() and int(key) < len(value):
            return value[int(key)]
        refuse(pointer[:200], "there is nothing of this name")


def canonical(value: Any) -> str:
    """The same text for values that JSON Schema takes for equal: 1 and 1.0, keys in any order."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "list": "an array", "str": "a string", "dict": "an object"}
    return names.get(type(value).__name__, type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
