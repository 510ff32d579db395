"""Random JSON schemas, and random values that satisfy them, for property tests.

A value is drawn beside its schema from the same choices, not through the code under test; the
tests check it with the jsonschema library.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "ab", "b", "name", "größe", 'q"uote', "back\\slash", "x y", "root"])
TEXT = st.text(max_size=12).filter(lambda s: not any(0xD800 <= ord(c) <= 0xDFFF for c in s))
INT64 = st.integers(-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Case:
    schema: Any
    values: tuple[Any, ...]


def plain_values(depth: int = 2) -> st.SearchStrategy[Any]:
    floats = st.floats(-1e6, 1e6, width=32).map(lambda x: x + 0.0)
    leaf = st.none() | st.booleans() | INT64 | TEXT | floats
    return st.recursive(
        leaf, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3), max_leaves=5
    )


@st.composite
def _integers(draw: st.DrawFn) -> Case:
    low = draw(st.none() | st.integers(-3000, 3000))
    high = draw(st.none() | st.integers((low or -3000), (low or 0) + 5000))
    schema: dict[str, Any] = {"type": "integer"}
    first, last = low, high
    if low is not None:
        strict = draw(st.booleans()) and (high is None or low < high)
        schema["exclusiveMinimum" if strict else "minimum"] = low
        first = low + strict
    if high is not None:
        schema["maximum"] = high
    values = st.integers(-(2**63) if first is None else first, 2**63 - 1 if last is None else last)
    return Case(schema, (draw(values), draw(values)))


@st.composite
def _numbers(draw: st.DrawFn) -> Case:
    places = draw(st.integers(0, 3))
    low = draw(st.integers(-2000, 2000)) / 10**places
    high = low + draw(st.integers(1, 4000)) / 10**places
    schema: dict[str, Any] = {"type": "number"}
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = high
    inner = st.floats(low, high, exclude_min=True, exclude_max=True)
    # a bounded grammar writes no exponents, and no more digits than a strict bound allows
    value = round(draw(inner), 6) + 0.0  # -0.0 is another spelling of 0
    if not low < value < high or "e" in repr(value):
        value = (low + high) / 2
    return Case(schema, (value,) if "e" not in repr(value) and len(repr(value)) < 14 else ())


@st.composite
def _strings(draw: st.DrawFn) -> Case:
    kind = draw(st.sampled_from(["free", "length", "pattern", "found", "format"]))
    if kind == "free":
        return Case({"type": "string"}, (draw(TEXT),))
    if kind == "length":
        least = draw(st.integers(0, 5))
        most = least + draw(st.integers(0, 600))
        sized = st.text(min_size=least, max_size=min(most, least + 8)).filter(
            lambda s: not any(0xD800 <= ord(c) <= 0xDFFF for c in s)
        )
        return Case({"type": "string", "minLength": least, "maxLength": most}, (draw(sized),))
    if kind == "pattern":
        pattern, value = draw(st.sampled_from(PATTERNS))
        return Case({"type": "string", "pattern": pattern}, (value,))
    if kind == "found":
        before, after = draw(TEXT), draw(TEXT)
        return Case({"type": "string", "pattern": "b[0-9]+\\."}, (f"{before}b07.{after}",))
    name, value = draw(st.sampled_from(FORMATS))
    return Case({"type": "string", "format": name}, (value,))


PATTERNS = [
    ("^[a-z]+$", "abc"), ("^(?:foo|ba[rz])?$", "baz"), ('^"[^"]*"$', '"x\ty"'),
    ("^\\d{3}-\\d{4}$", "555-0199"), ("^a{0,3}(b|c)*$", "aabcb"), ("^[^\\n]{2,}$", "x\\y"),
    ("^(a*b?)*$", "aabab"), ("^\\w+\\.\\w{2,3}$", "a_1.org"), ("^\\u00e9+$", "éé"),
    ("^a|b$", "xxb"), ("^[\\]\\-x]+$", "]-x"), ("^\\S+$", "日本"), ("(^x$|^yy$)", "yy"),
]  # fmt: skip

FORMATS = [
    ("date", "2024-02-29"), ("date", "1999-12-31"), ("time", "23:59:01Z"),
    ("time", "10:00:00.25+02:00"), ("date-time", "2026-01-01T00:00:00Z"),
    ("uuid", "123e4567-e89b-12d3-a456-426614174000"), ("email", "a.b+c@example.org"),
    ("ipv4", "192.168.0.1"), ("ipv6", "fe80::1"), ("ipv6", "::"), ("ipv6", "1:2:3:4:5:6:7:8"),
    ("hostname", "example.org"), ("unknown", 'anything "goes"'), ("duration", "P1DT2H"),
    ("uri", "https://example.org/a%20b?q=1#top"),
]  # fmt: skip


@st.composite
def _enums(draw: st.DrawFn) -> Case:
    values = draw(st.lists(plain_values(), min_size=1, max_size=12))
    if draw(st.booleans()):
        return Case({"const": values[0]}, (values[0],))
    return Case({"enum": values}, (values[-1],))


@st.composite
def _arrays(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    case = draw(inner)
    least = draw(st.integers(0, 2))
    most = least + draw(st.integers(0, 3))
    schema: dict[str, Any] = {"type": "array", "items": case.schema, "minItems": least}
    if draw(st.booleans()):
        schema["maxItems"] = most
    if least and not case.values:
        return Case(schema, ())
    return Case(schema, ([draw(st.sampled_from(case.values)) for _ in range(most)],)
                if case.values else ([],))  # fmt: skip


@st.composite
def _tuples(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    cases = draw(st.lists(inner, min_size=1, max_size=3))
    schema: dict[str, Any] = {"type": "array", "prefixItems": [c.schema for c in cases]}
    if draw(st.booleans()):
        schema |= {"minItems": len(cases), "items": False}
    return Case(schema, ([c.values[0] for c in cases],) if all(c.values for c in cases) else ())


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    members = draw(st.dictionaries(NAMES, inner, max_size=4))
    required = [name for name in members if draw(st.booleans())]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: case.schema for name, case in members.items()},
        "required": required,
    }
    others: dict[str, Any] = {}
    if draw(st.booleans()):
        extra = draw(inner)
        schema["additionalProperties"] = extra.schema
        name = draw(st.sampled_from(["zz", "a0", "na", "names", "größen", '"', "\n", ""]))
        others = {name: extra.values[0]} if extra.values else {}
    else:
        schema["additionalProperties"] = False
    if not all(members[name].values for name in required):
        return Case(schema, ())
    value = {
        name: case.values[0]
        for name, case in members.items()
        if name in required or (case.values and draw(st.booleans()))
    }
    return Case(schema, (value | others,))


@st.composite
def _choices(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    cases = draw(st.lists(inner, min_size=1, max_size=3))
    return Case({"anyOf": [c.schema for c in cases]}, tuple(v for c in cases for v in c.values[:1]))


@st.composite
def _merged(draw: st.DrawFn) -> Case:
    """allOf: two halves of one object, or two ranges that overlap."""
    if draw(st.booleans()):
        low, middle = sorted([draw(st.integers(-50, 50)), draw(st.integers(-50, 50))])
        schema = {"allOf": [{"type": "number", "minimum": low},
                            {"type": ["integer", "null"], "maximum": middle}]}  # fmt: skip
        return Case(schema, (low, middle))
    left, right = draw(_integers()), draw(_strings())
    schema = {
        "allOf": [
            {"type": "object", "properties": {"l": left.schema}, "required": ["l"]},
            {"type": "object", "properties": {"r": right.schema}, "required": ["r"]},
        ]
    }
    if not (left.values and right.values):
        return Case(schema, ())
    return Case(schema, ({"l": left.values[0], "r": right.values[0]},))


def cases() -> st.SearchStrategy[Case]:
    """Schemas of every kind that we enforce, nested, each with values that satisfy it."""
    leaves = (
        _integers() | _numbers() | _strings() | _enums() | _merged()
        | st.sampled_from([Case({"type": "boolean"}, (True,)), Case({"type": "null"}, (None,)),
                           Case(True, ({"k": [1, "x"]},))])
        | st.builds(lambda v: Case({}, (v,)), plain_values())
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda inner: _arrays(inner) | _tuples(inner) | _objects(inner) | _choices(inner),
        max_leaves=6,
    )


def spellings(value: Any) -> list[str]:
    """Ways in which programs write the same value."""
    return [
        json.dumps(value, ensure_ascii=False, separators=(",", ":")),
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, ensure_ascii=False, indent=2),
    ]
