"""From schemas to shapes: $ref, allOf, anyOf and oneOf worked in, and questions about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from localllm.grammars import formats, patterns, regex
from localllm.grammars.document import Document, canonical, child, refuse
from localllm.grammars.keywords import own_shape
from localllm.grammars.numbers import Bound
from localllm.grammars.shape import Places, Shape, merge

_MAX_MERGES = 20_000
_MAX_MERGED = 200_000  # properties looked at by all merges: a second or two of work
_MAX_CHAIN = 150  # schemas that stand for one another without a value in between


class Shapes:
    """The shapes of every part of a document. Each is worked out once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._known: dict[str, tuple[Shape, ...]] = {}
        self._merges = self._merged = 0

    def of(self, places: Places) -> tuple[Shape, ...]:
        """The alternatives of a value that satisfies all schemas at `places`."""
        found: tuple[Shape, ...] = (Shape(),)
        for place in places:
            found = self._product(found, self._at(place, ()), place)
        return found

    def _at(self, at: str, above: tuple[str, ...]) -> tuple[Shape, ...]:
        if at in self._known:
            return self._known[at]
        if at in above:
            refuse(at, "it refers to itself with no value in between")
        if len(above) > _MAX_CHAIN:
            refuse(at, f"more than {_MAX_CHAIN} schemas stand for one another")
        schema = self._document.at(at)
        if isinstance(schema, bool):
            found: tuple[Shape, ...] = (Shape(),) if schema else ()
        else:
            found = self._alternatives(schema, at, (*above, at))
        self._known[at] = found
        return found

    def _alternatives(
        self, schema: Mapping[str, Any], at: str, above: tuple[str, ...]
    ) -> tuple[Shape, ...]:
        found: tuple[Shape, ...] = (own_shape(schema, at),)
        if "$ref" in schema:
            target = self._document.target(schema["$ref"], child(at, "$ref"))
            found = self._product(found, self._at(target, above), at)
        for part in self._parts(schema, at, "allOf"):
            found = self._product(found, self._at(part, above), at)
        for key in ("anyOf", "oneOf"):
            if key not in schema:
                continue
            branches = [self._at(part, above) for part in self._parts(schema, at, key)]
            if key == "oneOf":
                self._check_exclusive(branches, child(at, key))
            found = self._product(found, tuple(s for branch in branches for s in branch), at)
        return found

    def _parts(self, schema: Mapping[str, Any], at: str, key: str) -> list[str]:
        value = schema.get(key, [])
        if not isinstance(value, list | tuple) or (key in schema and not value):
            refuse(child(at, key), "this is an array of schemas, one at least")
        return [child(at, key, n) for n in range(len(value))]

    def _product(
        self, some: tuple[Shape, ...], others: tuple[Shape, ...], at: str
    ) -> tuple[Shape, ...]:
        if some == (Shape(),):
            return tuple(dict.fromkeys(others))
        self._pay(len(some) * len(others), at)
        sizes = [sum(len(one.properties) for one in side) for side in (some, others)]
        self._merged += sizes[0] * len(others) + sizes[1] * len(some)
        if self._merged > _MAX_MERGED:
            refuse(at, "its alternatives, with all their properties, make too many combinations")
        return tuple(dict.fromkeys(merge(a, b) for a in some for b in others))

    def _pay(self, merges: int, at: str) -> None:
        self._merges += merges
        if self._merges > _MAX_MERGES:
            refuse(at, f"its alternatives make more than {_MAX_MERGES} combinations")

    # --- oneOf ----------------------------------------------------------------------------

    def _check_exclusive(self, branches: list[tuple[Shape, ...]], at: str) -> None:
        for n, branch in enumerate(branches):
            for m, other in enumerate(branches[:n]):
                self._pay(len(branch) * len(other), at)
                if not all(self.disjoint(a, b) for a in branch for b in other):
                    refuse(
                        at,
                        f"a value may fit both {m} and {n}, and a grammar cannot tell; "
                        "say anyOf, or make them differ by a required const",
                    )

    def disjoint(self, a: Shape, b: Shape, depth: int = 0) -> bool:
        """Whether surely nothing that we write for one is right for the other."""
        both = merge(a, b)
        if both.values is not None:
            rest = replace(both, values=None)
            return not any(self.accepts(rest, json.loads(text)) for text in both.values)
        return all(self._disjoint_as(kind, a, b, both, depth) for kind in both.types)

    def _disjoint_as(self, kind: str, a: Shape, b: Shape, both: Shape, depth: int) -> bool:
        match kind:
            case "integer" | "fraction":
                return _empty(both.low, both.high)
            case "string":
                return both.most_chars is not None and both.most_chars < both.least_chars
            case "array":
                if both.most_items is not None and both.most_items < both.least_items:
                    return True
                width = min(both.least_items, len(both.prefix) + 1)
                return any(self._apart(a.item(n), b.item(n), depth) for n in range(width))
            case "object":
                return self._excludes(a, b, depth) and self._excludes(b, a, depth)
        return False

    def _excludes(self, a: Shape, b: Shape, depth: int) -> bool:
        """Whether no object that we write for `a` is right for `b`."""
        declared = {*dict(a.properties), *a.required}
        if any(a.is_closed and name not in declared for name in b.required):
            return True
        names = [*a.required, *(n for n in b.required if n in declared)]
        return any(self._apart(a.member(n), b.member(n), depth) for n in names)

    def _apart(self, some: Places, others: Places, depth: int) -> bool:
        if depth > 3:
            return False
        return all(self.disjoint(a, b, depth + 1) for a in self.of(some) for b in self.of(others))

    # --- values ---------------------------------------------------------------------------

    def fits(self, places: Places, value: Any) -> bool:
        """Whether `value` satisfies all schemas at `places`."""
        return any(self.accepts(shape, value) for shape in self.of(places))

    def accepts(self, shape: Shape, value: Any) -> bool:
        """Whether `value` is right for `shape`."""
        kind = _type_of(value)
        if kind not in shape.types:
            return False
        if shape.values is not None and canonical(value) not in {
            canonical(json.loads(text)) for text in shape.values
        }:
            return False
        if kind in ("integer", "fraction"):
            return _in_range(shape, Decimal(str(value)))
        if kind == "string":
            return fits_text(shape, value)
        if kind == "array":
            return _counts(len(value), shape.least_items, shape.most_items) and all(
                self.fits(shape.item(n), one) for n, one in enumerate(value)
            )
        if kind == "object":
            return self._accepts_object(shape, value)
        return True

    def _accepts_object(self, shape: Shape, value: Mapping[str, Any]) -> bool:
        return (
            _counts(len(value), shape.least_properties, shape.most_properties)
            and all(name in value for name in shape.required)
            and all(self.fits(shape.member(name), one) for name, one in value.items())
            and all(self.fits(shape.names, name) for name in value)
        )


def fits_text(shape: Shape, text: str) -> bool:
    """Whether a string has the lengths, patterns and formats of `shape`."""
    return _counts(len(text), shape.least_chars, shape.most_chars) and all(
        patterns.matches(pattern, text) for pattern in languages(shape)
    )


def languages(shape: Shape) -> list[patterns.Language]:
    """The patterns and formats of a string."""
    found = [regex.parse(pattern) for pattern in shape.patterns]
    return found + [p for name in shape.formats if (p := formats.pattern(name)) is not None]


def _counts(count: int, least: int, most: int | None) -> bool:
    return count >= least and (most is None or count <= most)


def _empty(low: Bound | None, high: Bound | None) -> bool:
    if low is None or high is None:
        return False
    return high.value < low.value or (high.value == low.value and (low.strict or high.strict))


def _in_range(shape: Shape, value: Decimal) -> bool:
    low, high = shape.low, shape.high
    return (
        (low is None or value > low.value or (value == low.value and not low.strict))
        and (high is None or value < high.value or (value == high.value and not high.strict))
        and all(value % n == 0 for n in shape.multiples)
    )


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "fraction"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"
