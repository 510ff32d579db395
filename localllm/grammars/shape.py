"""What a conjunction of schemas demands, one field for each kind of value."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from localllm.grammars.document import canonical
from localllm.grammars.numbers import Bound

# A number is an integer or a fraction, so that types can be intersected as sets.
ALL_TYPES = frozenset(["null", "boolean", "integer", "fraction", "string", "array", "object"])

# Pointers to schemas that must hold together; none of them: anything goes.
Places = tuple[str, ...]


def together(*places: Places) -> Places:
    return tuple(dict.fromkeys(p for some in places for p in some))


@dataclass(frozen=True)
class Shape:
    """One alternative of a schema after allOf, $ref and anyOf are worked in.

    `values` are the JSON texts of an enum; `additional` None: not said.
    """

    types: frozenset[str] = ALL_TYPES
    values: tuple[str, ...] | None = None
    low: Bound | None = None
    high: Bound | None = None
    multiples: tuple[int, ...] = ()
    least_chars: int = 0
    most_chars: int | None = None
    patterns: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    prefix: tuple[Places, ...] = ()
    items: Places | None = None
    least_items: int = 0
    most_items: int | None = None
    properties: tuple[tuple[str, Places], ...] = ()
    required: tuple[str, ...] = ()
    additional: Places | None = None
    names: Places = ()
    least_properties: int = 0
    most_properties: int | None = None

    def item(self, index: int) -> Places:
        """What the element at `index` has to be."""
        return self.prefix[index] if index < len(self.prefix) else self.items or ()

    def member(self, name: str) -> Places:
        """What the value of the property `name` has to be."""
        known = dict(self.properties)
        return known.get(name, self.additional or ())

    @property
    def is_closed(self) -> bool:
        """Whether we write only declared properties: where some are and nothing is said of
        others, as every tool of this kind does."""
        return self.additional is None and bool(self.properties)


def merge(a: Shape, b: Shape) -> Shape:
    """What satisfies both."""
    width = max(len(a.prefix), len(b.prefix))
    names = dict.fromkeys([n for n, _ in a.properties] + [n for n, _ in b.properties])
    return Shape(
        types=a.types & b.types,
        values=common_values(a.values, b.values),
        low=_tighter(a.low, b.low, 1),
        high=_tighter(a.high, b.high, -1),
        multiples=tuple(dict.fromkeys(a.multiples + b.multiples)),
        least_chars=max(a.least_chars, b.least_chars),
        most_chars=_lower(a.most_chars, b.most_chars),
        patterns=tuple(dict.fromkeys(a.patterns + b.patterns)),
        formats=tuple(dict.fromkeys(a.formats + b.formats)),
        prefix=tuple(together(a.item(n), b.item(n)) for n in range(width)),
        items=_both(a.items, b.items),
        least_items=max(a.least_items, b.least_items),
        most_items=_lower(a.most_items, b.most_items),
        properties=tuple((n, together(a.member(n), b.member(n))) for n in names),
        required=tuple(dict.fromkeys(a.required + b.required)),
        additional=_both(a.additional, b.additional),
        names=together(a.names, b.names),
        least_properties=max(a.least_properties, b.least_properties),
        most_properties=_lower(a.most_properties, b.most_properties),
    )


def common_values(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if a is None or b is None:
        return a if b is None else b
    known = {canonical(json.loads(text)) for text in b}
    return tuple(text for text in a if canonical(json.loads(text)) in known)


def _both(a: Places | None, b: Places | None) -> Places | None:
    return None if a is None and b is None else together(a or (), b or ())


def _lower(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _tighter(a: Bound | None, b: Bound | None, sign: int) -> Bound | None:
    if a is None or b is None:
        return a if b is None else b
    if a.value == b.value:
        return replace(a, strict=a.strict or b.strict)
    return a if (a.value - b.value) * sign > 0 else b
