"""Single schemas: what may be written, what is refused and where, and hostile ones."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.engine.grammar import check_grammar
from localllm.engine.model import Model
from localllm.errors import UsageProblem
from localllm.grammars import json_schema_grammar, patterns, regex
from tests.support.grammar_walk import GrammarWalk


@pytest.fixture(scope="module")
def model(tiny_gguf: Path) -> Iterator[Model]:
    with Model.load(tiny_gguf) as loaded:
        yield loaded


def takes(model: Model, schema: Any, text: str) -> bool:
    with GrammarWalk(model, json_schema_grammar(schema)) as walk:
        return walk.accepts(text)


TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}
SHAPES = {
    "oneOf": [
        {"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}},
         "required": ["kind", "r"]},
        {"type": "object", "properties": {"kind": {"const": "square"}, "side": {"type": "number"}},
         "required": ["kind", "side"]},
    ]
}  # fmt: skip
TAKEN = [
    (TREE, '{"value": 1, "children": [{"value": 2}, {"value": 3, "children": []}]}', True),
    (TREE, '{"children": []}', False),
    (TREE, '{"value": 1, "other": 2}', False),
    (SHAPES, '{"kind": "square", "side": 2.5}', True),
    (SHAPES, '{"kind": "square", "r": 2.5}', False),
    ({"type": ["string", "null"]}, "null", True),
    ({"type": "string", "nullable": True}, "null", True),
    ({"type": "integer"}, "18446744073709551615", True),
    ({"type": "integer"}, "007", False),
    ({"type": "integer"}, "-0", False),
    ({"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 1}, "-1", True),
    ({"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 1}, "-2", False),
    ({"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 1}, "1", False),
    ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, "0", False),
    ({"type": "integer", "minimum": 0, "maximum": 30, "multipleOf": 10}, "20", True),
    ({"type": "integer", "minimum": 0, "maximum": 30, "multipleOf": 10}, "25", False),
    ({"type": "number", "minimum": 0, "maximum": 1}, "0.5", True),
    ({"type": "number", "minimum": 0, "maximum": 1}, "1.0", True),
    ({"type": "number", "minimum": 0, "maximum": 1}, "1.01", False),
    ({"type": "number", "exclusiveMaximum": 1}, "0." + "9" * 20, False),
    ({"type": "number"}, "-1.5e-300", True),
    ({"type": "number"}, "1e999", False),
    ({"type": "string"}, r'"\ud83d\ude00"', True),
    ({"type": "string"}, r'"\ud83d"', False),
    ({"type": "string", "maxLength": 1}, r'"\ud83d\ude00"', True),
    ({"type": "string", "maxLength": 1}, '"👍"', True),
    ({"type": "string", "minLength": 2}, '"👍"', False),
    ({"type": "string", "maxLength": 3000}, json.dumps("x" * 3000), True),
    ({"type": "string", "maxLength": 3000}, json.dumps("x" * 3001), False),
    ({"type": "string", "minLength": 1500}, json.dumps("x" * 1499), False),
    ({"type": "string", "minLength": 1500}, json.dumps("x" * 1500), True),
    ({"type": "string", "pattern": "^[a-z]*$", "maxLength": 3}, '"abcd"', False),
    ({"type": "string", "pattern": "^[a-z]{2}$", "maxLength": 3}, '"ab"', True),
    ({"type": "string", "pattern": "^.$"}, r'"\""', True),
    ({"type": "string", "pattern": "^.$"}, '"\\n"', False),
    ({"type": "string", "format": "date"}, '"2023-02-29"', False),
    ({"type": "string", "format": "ipv6"}, '"1::2::3"', False),
    ({"enum": ["a", 1, None, {"k": [1]}]}, '{ "k": [ 1 ] }', True),
    ({"type": "string", "enum": ["a", 1, None]}, "1", False),
    ({"enum": [f"item {n}" for n in range(2000)]}, '"item 1999"', True),
    ({"enum": [f"item {n}" for n in range(2000)]}, '"item 2000"', False),
    ({"const": 'say "hi"\n'}, r'"say \"hi\"\n"', True),
    ({"type": "object", "minProperties": 1, "maxProperties": 2,
      "properties": {"a": True, "b": True, "c": True}}, "{}", False),
    ({"type": "object", "minProperties": 1, "maxProperties": 2,
      "properties": {"a": True, "b": True, "c": True}}, '{"a":1,"c":2}', True),
    ({"type": "object", "minProperties": 1, "maxProperties": 2,
      "properties": {"a": True, "b": True, "c": True}}, '{"a":1,"b":1,"c":2}', False),
    ({"type": "object", "maxProperties": 0}, "{}", True),
    ({"type": "object", "propertyNames": {"pattern": "^[a-z]$"},
      "additionalProperties": {"type": "integer"}}, '{"x":1,"y":2}', True),
    ({"type": "object", "propertyNames": {"pattern": "^[a-z]$"},
      "additionalProperties": {"type": "integer"}}, '{"xy":1}', False),
    ({"type": "object", "propertyNames": {"enum": ["x", "y"]}}, '{"y":[]}', True),
    ({"type": "object", "propertyNames": {"enum": ["x", "y"]}}, '{"z":[]}', False),
    ({"type": "object", "required": ["a"]}, '{"a":1}', True),
    ({"type": "object", "required": ["a"]}, '{"b":1}', False),
    ({"type": "object", "properties": {"a": {"type": "string"}},
      "additionalProperties": {"type": "integer"}}, r'{"\u0061":1}', False),
    ({"items": [{"type": "integer"}, {"type": "string"}], "additionalItems": False},
     '[1, "x"]', True),
    ({"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, '[1,"x","y"]', True),
    ({"prefixItems": [{"type": "integer"}], "minItems": 1}, "[]", False),
    ({"allOf": [{"$ref": "#/definitions/a"}, {"required": ["x"]}],
      "definitions": {"a": {"type": "object", "properties": {"x": {"type": "null"}}}}},
     '{"x":null}', True),
    ({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
     '{"b":1}', True),
    ({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, "{}", False),
    ({"$ref": "#/$defs/a%20b~1c", "$defs": {"a b/c": {"type": "null"}}}, "null", True),
    ({"type": "object", "properties": {"n": {"$ref": "#"}}}, '{"n":{"n":{}}}', True),
    ({"title": "x", "description": "y", "default": 1, "examples": [1], "deprecated": True,
      "type": "boolean"}, "true", True),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "text", "taken"), TAKEN)
def test_what_may_be_written(model: Model, schema: Any, text: str, taken: bool) -> None:
    assert takes(model, schema, text) is taken


def nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(key: str, n: int) -> Any:
    """$defs that name the one before twice: 2**n when written out."""
    defs: dict[str, Any] = {"d0": {"type": "integer", "minimum": 0}}
    for i in range(1, n):
        two = [{"$ref": f"#/$defs/d{i - 1}"}, {"$ref": f"#/$defs/d{i - 1}"}]
        defs[f"d{i}"] = {key: two}
    return {"$ref": f"#/$defs/d{n - 1}", "$defs": defs}


REFUSED: list[tuple[Any, str]] = [
    ({"properties": {"a": {"not": {"type": "null"}}}}, "#/properties/a/not: no grammar"),
    ({"items": {"uniqueItems": True}}, "#/items/uniqueItems: no grammar"),
    ({"if": {}, "then": {}}, "#/if: no grammar"),
    ({"$ref": "https://example.org/s.json"}, "#/\\$ref: the \\$ref .* leads out"),
    ({"$ref": "#anchor"}, "is no JSON pointer"),
    ({"$ref": "#/$defs/none"}, "there is nothing of this name"),
    ({"$ref": "#"}, "refers to itself"),
    ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "refers to itself"),
    ({"properties": {"a": {"type": "text"}}}, '#/properties/a/type: "text" is no type'),
    ({"type": 3}, "is no type"),
    ({"properties": []}, "#/properties: this is an object"),
    ({"required": "a"}, "#/required: this is an array of names"),
    ({"enum": "a"}, "#/enum: an enum is an array"),
    ({"anyOf": []}, "#/anyOf: this is an array of schemas, one at least"),
    ({"anyOf": [3]}, "#/anyOf/0: a schema is an object"),
    ({"minLength": -1}, "#/minLength: a count"),
    ({"minimum": "1"}, "#/minimum: a limit is a number"),
    ({"multipleOf": 0.1}, "#/multipleOf: only multiples"),
    ({"type": "integer", "multipleOf": 7}, "needs a minimum and a maximum"),
    ({"pattern": "(?=x)"}, "#/pattern: the pattern '\\(\\?=x\\)' has look-around"),
    ({"pattern": "a\\1"}, "a back reference"),
    ({"pattern": "(a"}, "a group without its"),
    ({"pattern": "a{3,1}"}, "a count out of range"),
    ({"pattern": "\\p{L}"}, "which a grammar cannot enforce"),
    ({"pattern": "^(?:a?b{90}){90}c$", "maxLength": 5000}, "too much together to be enforced"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf: a value may fit both 0 and 1"),
    ({"type": "string", "enum": [1]}, "nothing satisfies"),
    (False, "nothing satisfies"),
    ({"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]}, "no finite value"),
    ({"minItems": 2, "maxItems": 1}, "nothing satisfies"),
    ({"type": "integer", "minimum": 3, "maximum": 1}, "nothing satisfies"),
    ({"type": "object", "minProperties": 2}, "nothing satisfies"),
    ([1], "a JSON schema is an object, not an array"),
    ("x", "a JSON schema is an object"),
    ({"const": float("inf")}, "not finite"),
    ({"default": {1, 2}}, "which is no JSON"),
    (nested(130), "nests deeper than 128"),
    ({"enum": [f"{n:020}" * 2 for n in range(0, 10**12, 10**8)]}, "a grammar of more than"),
    ({"enum": list(range(60_000))}, "more than 50000 values"),
    ({"allOf": [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(30)]},
     "more than 20000 combinations"),
    ({"type": "string", "minLength": 10**9}, "at most 1000000"),
    ({"pattern": "x" * 5000}, "at most 4000"),
    ({"pattern": "(" * 500 + ")" * 500}, "groups deeper than 60"),
    ({"pattern": "((a{1000}){1000}){1000000000}"}, "a count out of range"),
    (doubling("allOf", 150), "stand for one another"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "why"), REFUSED)
def test_what_cannot_be_enforced_is_refused_at_its_place(schema: Any, why: str) -> None:
    began = time.process_time()
    with pytest.raises(UsageProblem, match=why) as caught:
        json_schema_grammar(schema)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert time.process_time() - began < 20  # a bound against years, not a measurement


@pytest.mark.parametrize("key", ["allOf", "anyOf"])
def test_what_names_itself_twice_stays_small(key: str) -> None:
    assert len(json_schema_grammar(doubling(key, 40))) < 1000


def test_a_pattern_bomb_is_a_small_grammar(model: Model) -> None:
    text = json_schema_grammar({"type": "string", "pattern": "^((a?){1000}b){1000}$"})
    assert len(text) < 10_000
    with GrammarWalk(model, text) as walk:
        assert walk.accepts('"' + "aab" * 1000 + '"')


def test_a_pattern_of_nested_stars_ends(model: Model) -> None:
    assert takes(model, {"pattern": "^((a*)*|(b*)*)*$", "type": "string"}, '"aabba"')


def test_wide_objects_and_long_chains() -> None:
    wide = {"properties": {f"p{n}": {"type": "integer"} for n in range(800)}}
    check_grammar(json_schema_grammar(wide), lambda _: None)
    defs = {f"d{n}": {"properties": {"x": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(1000)}
    chain = {"$ref": "#/$defs/d0", "$defs": defs | {"d1000": {"type": "null"}}}
    check_grammar(json_schema_grammar(chain), lambda _: None)


def test_the_engine_writes_what_the_schema_says(model: Model) -> None:
    from localllm.engine.context import Context
    from localllm.engine.generator import LocalGenerator
    from localllm.engine.options import ContextOptions
    from localllm.generation import Message, Sampling

    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 18, "maximum": 99},
                       "state": {"enum": ["new", "used"]}},
        "required": ["age", "state"],
    }  # fmt: skip
    with Context(model, ContextOptions(n_ctx=512, n_threads=1)) as context:
        generator = LocalGenerator(context, "tiny")
        for seed in range(3):
            sampling = Sampling(grammar=json_schema_grammar(schema), seed=seed, max_tokens=200)
            text = "".join(p.text for p in generator.generate([Message("user", "?")], sampling))
            value = json.loads(text)
            assert 18 <= value["age"] <= 99
            assert value["state"] in ("new", "used")


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "\\d", "\\w", "c"])
REGEXES = st.recursive(
    ATOMS,
    lambda inner: (
        st.builds(lambda a, b: a + b, inner, inner)
        | st.builds(lambda a, b: f"(?:{a}|{b})", inner, inner)
        | st.builds(lambda a, q: f"(?:{a}){q}", inner, st.sampled_from(["*", "+", "?", "{1,2}"]))
    ),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pattern=REGEXES, text=st.text("abc1_", max_size=6), anchors=st.sampled_from(
    [("", ""), ("^", ""), ("", "$"), ("^", "$")]))  # fmt: skip
def test_our_matching_is_pythons(pattern: str, text: str, anchors: tuple[str, str]) -> None:
    whole = f"{anchors[0]}{pattern}{anchors[1]}"
    assert patterns.matches(regex.parse(whole), text) is (re.search(whole, text) is not None)


def test_alternatives_of_large_objects_are_bounded() -> None:
    """4096 combinations of fifty properties each: seconds of work for one request."""
    large = {"type": "object", "properties": {f"a{i}": {} for i in range(50)}}
    part = {"anyOf": [{"type": "string"}, large]}
    with pytest.raises(UsageProblem, match="too many combinations"):
        json_schema_grammar({"allOf": [part] * 12})
    json_schema_grammar({"allOf": [part] * 4})
