"""Grammars that force calls: whatever llama.cpp lets through is read back as valid calls."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from localllm.engine.model import Model
from localllm.errors import UsageProblem
from localllm.generation import Sampling
from localllm.toolcalls import Tool, ToolFormat, read_calls
from localllm.toolcalls.formats import FORMATS
from tests.support.grammar_walk import GrammarWalk

BOOK = Tool("book_table", "", {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "guests": {"type": "integer", "minimum": 1, "maximum": 12},
        "where": {"enum": ["in", "out"]},
        "notes": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "day": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": "^[a-z<]{2,4}$"},
        "party": {"$ref": "#/$defs/party"},
    },
    "required": ["name", "guests"],
    "additionalProperties": False,
    "$defs": {"party": {"type": "object", "properties": {"host": {"type": "boolean"}},
                        "required": ["host"], "additionalProperties": False}},
})  # fmt: skip
NOW = Tool("now", "", {"type": "object", "properties": {}, "additionalProperties": False})
TOOLS = [BOOK, NOW]
KNOWN = sorted(name for name, one in FORMATS.items() if one.known)


@pytest.fixture(scope="module")
def model(tiny_gguf: Path) -> Iterator[Model]:
    with Model.load(tiny_gguf) as loaded:
        yield loaded


def check(format: ToolFormat, text: str) -> list[str]:
    said, calls = read_calls(format.parser(TOOLS), text)
    assert said == "", text
    assert calls, text
    for call in calls:
        schema = {tool.name: tool.schema for tool in TOOLS}[call.name]
        jsonschema.validate(json.loads(call.arguments), schema)
    return [call.name for call in calls]


def ending(format: ToolFormat) -> str:
    """What ends a plain value between marks."""
    value_line = getattr(format.syntaxes[0], "value_line", "")
    return value_line + getattr(format.syntaxes[0], "value_close", "")


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("choice", ["required", "book_table"])
def test_what_is_forced_is_a_call(model: Model, name: str, choice: str) -> None:
    format, written = FORMATS[name], 0
    for seed in range(6):
        grammar = format.grammar(TOOLS, choice, parallel=seed % 2 == 0)
        assert grammar is not None
        with GrammarWalk(model, grammar) as walk:
            text = walk.write(random.Random(seed), ends=ending(format))
        if text is None:
            continue
        names = check(format, text)
        assert choice == "required" or names == [choice]
        assert seed % 2 == 0 or len(names) == 1
        written += 1
    assert written > 1


@pytest.mark.parametrize("name", [n for n in KNOWN if FORMATS[n].triggers])
def test_what_follows_a_trigger_is_a_call(model: Model, name: str) -> None:
    format = FORMATS[name]
    grammar = format.lazy_grammar(TOOLS)
    assert grammar is not None
    before = "<|channel|>commentary" if name == "harmony" else ""
    if name in ("deepseek-r1", "deepseek-v3.1", "kimi-k2"):
        before = format.syntaxes[0].section[0]  # type: ignore[attr-defined]
    for seed in range(3):
        with GrammarWalk(model, grammar) as walk:
            text = walk.write(random.Random(seed), ends=ending(format))
        if text is not None:
            check(format, before + format.triggers[0] + text)


def test_auto_and_none_force_nothing() -> None:
    assert FORMATS["hermes"].grammar(TOOLS, "auto") is None
    assert FORMATS["hermes"].grammar(TOOLS, "none") is None
    assert FORMATS["hermes"].sampling(Sampling(), TOOLS, "none") == Sampling()


def test_what_cannot_be_forced_is_one_error() -> None:
    with pytest.raises(UsageProblem, match="'gone', which is none of the tools"):
        FORMATS["hermes"].grammar(TOOLS, "gone")
    with pytest.raises(UsageProblem, match="knows no tools"):
        FORMATS["none"].grammar(TOOLS, "required")
    odd = Tool("odd", "", {"properties": {"a": {"not": {}}}})
    with pytest.raises(UsageProblem, match="tool 'odd': the JSON schema at #/properties/a/not"):
        FORMATS["hermes"].grammar([odd], "required")
    assert FORMATS["hermes"].lazy_grammar([odd]) is not None


def test_the_sampling_of_a_format() -> None:
    lazy = FORMATS["mistral"].sampling(Sampling(), TOOLS)
    assert lazy.special
    assert lazy.grammar_triggers == ("[TOOL_CALLS]",)
    forced = FORMATS["hermes"].sampling(Sampling(temperature=0), TOOLS, "now")
    assert (forced.special, forced.grammar_triggers) == (False, ())
    assert forced.grammar is not None
    own = Sampling(grammar='root ::= "x"')
    assert FORMATS["hermes"].sampling(own, TOOLS).grammar == own.grammar
    assert FORMATS["llama3"].sampling(Sampling(), TOOLS).grammar is None
