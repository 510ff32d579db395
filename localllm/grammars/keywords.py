"""The keywords of one schema object, read and checked; its sub-schemas stay pointers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from localllm.errors import UsageProblem
from localllm.grammars import formats, regex
from localllm.grammars.document import child, refuse
from localllm.grammars.numbers import MAX_BOUND_DIGITS, Bound
from localllm.grammars.shape import ALL_TYPES, Places, Shape, common_values

_TYPES: Mapping[str, frozenset[str]] = {
    "null": frozenset(["null"]), "boolean": frozenset(["boolean"]),
    "integer": frozenset(["integer"]), "number": frozenset(["integer", "fraction"]),
    "string": frozenset(["string"]), "array": frozenset(["array"]),
    "object": frozenset(["object"]),
}  # fmt: skip
# Keywords that say the type where `type` does not
_IMPLY = {
    "object": ("properties", "required", "additionalProperties", "propertyNames",
               "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "additionalItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}  # fmt: skip
# Assertions that no grammar of ours enforces, and values with which they assert nothing
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "not": (False,), "if": (), "then": (), "else": (), "contains": (), "minContains": (0,),
    "maxContains": (), "uniqueItems": (False,), "patternProperties": ({},),
    "dependentRequired": ({},), "dependentSchemas": ({},), "dependencies": ({},),
    "unevaluatedProperties": (True, {}), "unevaluatedItems": (True, {}),
    "$dynamicRef": (), "$recursiveRef": (),
}  # fmt: skip
_MAX_LENGTH = 1_000_000
_MAX_ITEMS = 1_000_000


def own_shape(schema: Mapping[str, Any], at: str) -> Shape:
    """What the keywords of `schema` themselves demand, apart from $ref, allOf, anyOf, oneOf.

    Raises UsageProblem with the pointer of what is invalid or cannot be enforced.
    """
    for key, harmless in _REFUSED.items():
        if key in schema and schema[key] not in harmless:
            refuse(child(at, key), "no grammar can enforce this; leave it out")
    prefix, items = _items(schema, at)
    return Shape(
        types=_types(schema, at),
        values=_values(schema, at),
        low=_bound(schema, at, "minimum", "exclusiveMinimum", 1),
        high=_bound(schema, at, "maximum", "exclusiveMaximum", -1),
        multiples=_multiples(schema, at),
        least_chars=_count(schema, at, "minLength", _MAX_LENGTH) or 0,
        most_chars=_count(schema, at, "maxLength", None),
        patterns=_pattern(schema, at),
        formats=_format(schema, at),
        prefix=prefix,
        items=items,
        least_items=_count(schema, at, "minItems", _MAX_ITEMS) or 0,
        most_items=_count(schema, at, "maxItems", None),
        properties=_properties(schema, at),
        required=_required(schema, at),
        additional=_one(schema, at, "additionalProperties"),
        names=_one(schema, at, "propertyNames") or (),
        least_properties=_count(schema, at, "minProperties", _MAX_ITEMS) or 0,
        most_properties=_count(schema, at, "maxProperties", None),
    )


def _types(schema: Mapping[str, Any], at: str) -> frozenset[str]:
    given = schema.get("type")
    if given is None:
        if "enum" in schema or "const" in schema:
            return ALL_TYPES
        implied = [_TYPES[t] for t, keys in _IMPLY.items() if any(k in schema for k in keys)]
        return frozenset().union(*implied) or ALL_TYPES
    names = [given] if isinstance(given, str) else given
    known = isinstance(names, list | tuple) and all(
        isinstance(name, str) and name in _TYPES for name in names
    )
    if not known:
        refuse(child(at, "type"), f"{json.dumps(given)[:60]} is no type")
    found = frozenset().union(*(_TYPES[name] for name in names))
    return found | {"null"} if schema.get("nullable") is True else found


def _values(schema: Mapping[str, Any], at: str) -> tuple[str, ...] | None:
    found: tuple[str, ...] | None = None
    if "enum" in schema:
        listed = schema["enum"]
        if not isinstance(listed, list | tuple):
            refuse(child(at, "enum"), "an enum is an array")
        found = tuple(map(_text, listed))
    if "const" in schema:
        found = common_values((_text(schema["const"]),), found)
    return found


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    half = any(0xD800 <= ord(c) <= 0xDFFF for c in text)
    return json.dumps(value) if half else text


def _bound(schema: Mapping[str, Any], at: str, plain: str, strict: str, sign: int) -> Bound | None:
    """The tighter of both limits. In draft 4 the strict one is a boolean beside the other."""
    found: list[Bound] = []
    if (value := _number(schema, at, plain)) is not None:
        found.append(Bound(value, schema.get(strict) is True))
    if not isinstance(schema.get(strict), bool) and (value := _number(schema, at, strict)):
        found.append(Bound(value, strict=True))
    elif schema.get(strict) == 0 and not isinstance(schema.get(strict), bool):
        found.append(Bound(Decimal(0), strict=True))
    return max(found, key=lambda b: (b.value * sign, b.strict), default=None)


def _number(schema: Mapping[str, Any], at: str, key: str) -> Decimal | None:
    value = schema.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        refuse(child(at, key), "a limit is a number")
    exact = Decimal(str(value))
    if len(f"{exact:f}") > MAX_BOUND_DIGITS:
        refuse(child(at, key), f"a limit has at most {MAX_BOUND_DIGITS} digits")
    return exact


def _multiples(schema: Mapping[str, Any], at: str) -> tuple[int, ...]:
    value = _number(schema, at, "multipleOf")
    if value is None or value == 1:
        return () if value is None else (1,)
    if value <= 0 or value != int(value):
        refuse(child(at, "multipleOf"), "only multiples of a positive integer can be enforced")
    return (int(value),)


def _count(schema: Mapping[str, Any], at: str, key: str, most: int | None) -> int | None:
    value = schema.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        refuse(child(at, key), "a count is a whole number of 0 or more")
    if most is not None and value > most:
        refuse(child(at, key), f"at most {most} can be enforced")
    # a limit this high is none that an answer could reach
    return None if value > _MAX_LENGTH else value


def _pattern(schema: Mapping[str, Any], at: str) -> tuple[str, ...]:
    value = schema.get("pattern")
    if value is None:
        return ()
    if not isinstance(value, str):
        refuse(child(at, "pattern"), "a pattern is a string")
    try:
        regex.parse(value)
    except UsageProblem as e:
        refuse(child(at, "pattern"), e.message)
    return (value,)


def _format(schema: Mapping[str, Any], at: str) -> tuple[str, ...]:
    value = schema.get("format")
    if value is not None and not isinstance(value, str):
        refuse(child(at, "format"), "a format is a string")
    return (value,) if value in formats.FORMATS else ()


def _items(schema: Mapping[str, Any], at: str) -> tuple[tuple[Places, ...], Places | None]:
    """`prefixItems` and `items`; before 2020-12 they were `items` and `additionalItems`."""
    old = isinstance(schema.get("items"), list | tuple)
    prefix_key, rest_key = ("items", "additionalItems") if old else ("prefixItems", "items")
    listed = schema.get(prefix_key, ())
    if not isinstance(listed, list | tuple):
        refuse(child(at, prefix_key), "this is an array of schemas")
    prefix = tuple((child(at, prefix_key, n),) for n in range(len(listed)))
    return prefix, _one(schema, at, rest_key)


def _properties(schema: Mapping[str, Any], at: str) -> tuple[tuple[str, Places], ...]:
    value = schema.get("properties", {})
    if not isinstance(value, Mapping):
        refuse(child(at, "properties"), "this is an object of schemas")
    return tuple((name, (child(at, "properties", name),)) for name in value)


def _required(schema: Mapping[str, Any], at: str) -> tuple[str, ...]:
    value = schema.get("required", ())
    if isinstance(value, bool):  # draft 3 has it inside the property
        refuse(child(at, "required"), "this is an array of names beside properties")
    if not isinstance(value, list | tuple) or not all(isinstance(n, str) for n in value):
        refuse(child(at, "required"), "this is an array of names")
    return tuple(dict.fromkeys(value))


def _one(schema: Mapping[str, Any], at: str, key: str) -> Places | None:
    if key not in schema:
        return None
    if not isinstance(schema[key], Mapping | bool):
        refuse(child(at, key), "this is a schema")
    return (child(at, key),)
