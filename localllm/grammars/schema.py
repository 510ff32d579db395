"""From a JSON schema to the grammar of the JSON texts that satisfy it.

Properties come in the order in which they are declared; declared properties and nothing else,
unless `additionalProperties` says what else. Between the parts there may be a blank, or a line
break with its indentation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from localllm.errors import UsageProblem
from localllm.grammars import numbers, strings
from localllm.grammars.arrays import array_node
from localllm.grammars.document import ROOT, Document, refusal, refuse
from localllm.grammars.gbnf import Grammar
from localllm.grammars.nodes import (
    EMPTY,
    NEVER,
    Node,
    Ref,
    Repeat,
    Text,
    alt,
    chars,
    seq,
)
from localllm.grammars.numbers import Bound
from localllm.grammars.objects import object_node
from localllm.grammars.patterns import (
    ANY,
    All,
    CharSet,
    Choice,
    Either,
    Language,
    Times,
    lengths,
)
from localllm.grammars.shape import Places, Shape
from localllm.grammars.shapes import Shapes, fits_text, languages

_MAX_MULTIPLES = 2000


def json_schema_grammar(schema: Mapping[str, Any] | bool) -> str:
    """The GBNF of the JSON texts that satisfy `schema`; its first rule is `root`.

    Whatever it lets through is right by the schema. Raises UsageProblem, naming the place as
    a JSON pointer, for a schema that is invalid, too large, satisfied by nothing, or that says
    what a grammar cannot enforce.
    """
    grammar = Grammar()
    return grammar.text(add_schema(grammar, schema, "value"))


def add_schema(
    grammar: Grammar, schema: Mapping[str, Any] | bool, hint: str, place: str = ROOT
) -> Ref:
    """Add the rules of `schema`, or of its part at the JSON pointer `place`, to a grammar in the
    making; the rule to refer to."""
    return Compiler(grammar, schema).compile(hint, place)


def add_text(
    grammar: Grammar, schema: Mapping[str, Any] | bool, hint: str, place: str, end: str
) -> Ref:
    """The same for a string that stands as it is, without JSON's quotes, up to the mark `end`.

    Free text may be anything that does not hold `end`; of a certain length, pattern or format it
    does without the character that the mark itself begins with.
    """
    compiler = Compiler(grammar, schema)
    shapes = [s for s in compiler.shapes.of((place,)) if "string" in s.types]
    return grammar.define(hint, alt(*(compiler.text(s, (place,), end) for s in shapes)))


class Compiler:
    """Writes the rules of one schema into `grammar`."""

    def __init__(self, grammar: Grammar, schema: Mapping[str, Any] | bool) -> None:
        self.grammar = grammar
        self.shapes = Shapes(Document(schema))
        self.rules: dict[frozenset[str], str] = {}
        self.waiting: list[tuple[str, Places]] = []
        self.space = space(grammar)
        self.free: str | None = None  # the rule of any value

    def compile(self, hint: str, place: str) -> Ref:
        found = self.value((place,), hint)
        while self.waiting:  # not by recursion: schemas refer to one another as deep as they like
            name, places = self.waiting.pop()
            shapes = self.shapes.of(places)
            self.grammar.rules[name] = alt(*(self.node(s, places) for s in shapes))
        return found

    def value(self, places: Places, hint: str) -> Ref:
        """The rule of a value that satisfies all schemas at `places`."""
        if not places:
            return self.anything()
        key = frozenset(places)
        if key not in self.rules:
            self.rules[key] = self.grammar.reserve(hint)
            self.waiting.append((self.rules[key], places))
        return Ref(self.rules[key])

    def anything(self) -> Ref:
        """Any JSON value."""
        if self.free is None:
            self.free = self.grammar.reserve("json")
            kinds = ("object", "array", "string", "number", "boolean", "null")
            free = alt(*(self.of_type(kind, Shape(), ()) for kind in kinds))
            self.grammar.rules[self.free] = free
        return Ref(self.free)

    def node(self, shape: Shape, places: Places) -> Node:
        if shape == Shape():
            return self.anything()
        if shape.values is not None:
            rest = replace(shape, values=None)
            values = map(json.loads, shape.values)
            return self.constants([v for v in values if self.shapes.accepts(rest, v)])
        kinds: list[str] = [
            t for t in ("object", "array", "string", "boolean", "null") if t in shape.types
        ]
        if "fraction" in shape.types:
            kinds.insert(0, "number")
        elif "integer" in shape.types:
            kinds.insert(0, "integer")
        return alt(*(self.of_type(kind, shape, places) for kind in kinds))

    def constants(self, values: list[Any]) -> Node:
        """One of these values; space may stand in arrays and objects as in others."""
        simple = [v for v in values if not isinstance(v, list | dict)]
        found = [self.constant(v) for v in values if isinstance(v, list | dict)]
        if simple:
            texts = [strings.literal(v) if isinstance(v, str) else json.dumps(v) for v in simple]
            found.append(strings.one_of_texts(self.grammar, texts))
        return alt(*found)

    def constant(self, value: Any) -> Node:
        space, comma = self.space, seq(",", self.space)
        if isinstance(value, list):
            inner = [seq(comma if n else EMPTY, self.constant(v)) for n, v in enumerate(value)]
            return seq("[", space, *inner, space, "]")
        if isinstance(value, dict):
            pairs = [seq(comma if n else EMPTY, strings.literal(k), space, ":", space,
                         self.constant(v)) for n, (k, v) in enumerate(value.items())]  # fmt: skip
            return seq("{", space, *pairs, space, "}")
        return self.constants([value])

    def of_type(self, kind: str, shape: Shape, places: Places) -> Node:
        match kind:
            case "object":
                return object_node(self, shape, places)
            case "array":
                return array_node(self, shape)
            case "string":
                return self.string(shape, places)
            case "integer":
                return self.integer(shape, places)
            case "number":
                return self.number(shape, places)
            case "boolean":
                return alt("true", "false")
        return Text("null")

    def listed(self, item: Node, comma: Node, least: int, most: int | None) -> Node:
        """`item` between commas, `least` to `most` times."""
        if most == 0:
            return EMPTY if least == 0 else NEVER
        more = self.grammar.times(
            seq(comma, item), max(0, least - 1), None if most is None else most - 1
        )
        return seq(item, more) if least else alt(EMPTY, seq(item, more))

    def string(self, shape: Shape, places: Places) -> Node:
        if not languages(shape):
            return strings.string(self.grammar, shape.least_chars, shape.most_chars)
        return self.together(shape, places, lambda it: strings.of_pattern(self.grammar, it))

    def text(self, shape: Shape, places: Places, end: str) -> Node:
        """A string of this shape as it is."""
        if shape.values is not None:
            values = [v for v in map(json.loads, shape.values) if isinstance(v, str)]
            good = [v for v in values if fits_text(shape, v) and end not in v]
            return strings.one_of_texts(self.grammar, good)
        if is_free(shape):
            return self.grammar.share("text", strings.without(self.grammar, end))
        stop = end.strip()[0]
        return self.together(shape, places, lambda it: strings.plain(self.grammar, it, stop))

    def together(self, shape: Shape, places: Places, write: Callable[[Language], Node]) -> Node:
        """What the patterns, formats and lengths of a string demand together. Where that is too
        much, formats stay what JSON Schema calls them: annotations."""
        for demanded in dict.fromkeys([shape, replace(shape, formats=())]):
            with suppress(UsageProblem):
                return write(_language(demanded))
        raise refusal(
            places[0], "its patterns, formats and lengths are too much together to be enforced"
        )

    def integer(self, shape: Shape, places: Places) -> Node:
        low = None if shape.low is None else _whole(shape.low, 1)
        high = None if shape.high is None else _whole(shape.high, -1)
        if all(n == 1 for n in shape.multiples):
            return numbers.integer(self.grammar, low, high)
        step = math.lcm(*shape.multiples)
        if low is None or high is None or (high - low) // step > _MAX_MULTIPLES:
            refuse(
                places[0],
                f"multipleOf needs a minimum and a maximum, with at most "
                f"{_MAX_MULTIPLES} multiples between them",
            )
        found = range(-(-low // step) * step, high + 1, step)
        return strings.one_of_texts(self.grammar, map(str, found))

    def number(self, shape: Shape, places: Places) -> Node:
        if shape.multiples:  # multiples of an integer are integers
            return self.integer(shape, places)
        return numbers.number(self.grammar, shape.low, shape.high)

    def key(self, places: Places, taken: tuple[str, ...]) -> Node:
        """The name of a property that is not declared."""
        found: list[Node] = []
        for shape in self.shapes.of(places):
            if "string" not in shape.types:
                continue
            if shape.values is not None:
                names = [json.loads(t) for t in shape.values]
                good = [n for n in names if isinstance(n, str) and fits_text(shape, n)]
                texts = [strings.literal(n) for n in good if n not in taken]
                found.append(strings.one_of_texts(self.grammar, texts))
            elif any(fits_text(shape, name) for name in taken) or not taken:
                if not taken:
                    found.append(self.string(shape, places))
                elif is_free(shape):
                    found.append(strings.other_than(self.grammar, taken))
                else:
                    refuse(places[0], "names like declared ones cannot be told apart from them")
            else:
                found.append(self.string(shape, places))
        return self.grammar.share("key", alt(*found))


def space(grammar: Grammar) -> Ref:
    """White space between the parts: none, a blank, or up to two line breaks and indentation.

    Without a limit, small models write blanks for ever.
    """
    lines = seq(Repeat(Text("\n"), 1, 2), Repeat(chars(" \t"), 0, 20))
    return grammar.share("space", alt(EMPTY, " ", lines))


def is_free(shape: Shape) -> bool:
    return (shape.least_chars, shape.most_chars, shape.patterns, shape.formats) == (0, None, (), ())


def _whole(bound: Bound, sign: int) -> int:
    """The first integer that the bound lets through, going up (`sign` 1) or down (-1)."""
    value = bound.value
    whole = math.ceil(value) if sign > 0 else math.floor(value)
    return whole + sign if bound.strict and whole == value else whole


def _language(shape: Shape) -> Language:
    """What a string has to match: by a tree, where one pattern says all, or is one repeated set of
    characters; else all patterns and the lengths together."""
    found, least, most = languages(shape), shape.least_chars, shape.most_chars
    if not found:
        return Choice(()) if most is not None and most < least else Times(ANY, least, most)
    if len(found) == 1 and not isinstance(pattern := found[0], All | Either):
        shortest, longest = lengths(pattern)
        if shortest >= least and (most is None or (longest is not None and longest <= most)):
            return pattern
        if isinstance(pattern, Times) and isinstance(pattern.item, CharSet):
            end = min((n for n in (most, pattern.most) if n is not None), default=None)
            if end is not None and end < max(least, pattern.least):
                return Choice(())
            return Times(pattern.item, max(least, pattern.least), end)
    return All((*found, Times(ANY, least, most)) if (least, most) != (0, None) else tuple(found))
