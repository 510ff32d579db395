"""Several patterns, formats and lengths of one string, as zod and others write them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.engine.model import Model
from localllm.errors import UsageProblem
from localllm.grammars import json_schema_grammar, patterns, regex
from localllm.grammars.automaton import Automaton, automaton
from localllm.grammars.formats import FORMATS
from localllm.grammars.patterns import lengths
from tests.grammars.test_schema import REGEXES
from tests.support.grammar_walk import GrammarWalk


@pytest.fixture(scope="module")
def model(tiny_gguf: Path) -> Iterator[Model]:
    with Model.load(tiny_gguf) as loaded:
        yield loaded


def string(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, **more}


# What zod 4.1 writes for z.email(), z.uuid(), z.iso.datetime(), z.iso.date(), z.ipv4(), z.ipv6()
EMAIL = string(
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]"
    r"@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
    format="email",
)
UUID = string(
    r"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}"
    r"|00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff)$",
    format="uuid",
)
DAY = (
    r"(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29"
    r"|\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|(?:02)-(?:0[1-9]|1\d|2[0-8])))"
)
DATE = string(f"^{DAY}$", format="date")
MOMENT = string(
    rf"^{DAY}T(?:(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:Z))$", format="date-time"
)
IPV4 = string(
    r"^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])\.){3}"
    r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])$",
    format="ipv4",
)
ENDS = {"type": "string", "format": "ends_with",
        "allOf": [{"pattern": "^a.*"}, {"pattern": ".*b$"}]}  # fmt: skip
PASSWORD = string(r"^(?=.*[A-Z])(?=.*\d)(?!.*\s).{8,12}$")

TAKEN = [
    (EMAIL, "o.hara@mail.example.org", True),
    (EMAIL, "a@b.co", True),
    (EMAIL, ".a@b.co", False),  # the first look-ahead
    (EMAIL, "a..b@c.de", False),  # the second, and the format
    (EMAIL, "a@b-.co", False),  # the format alone: a label ends with no hyphen
    (EMAIL, "a@b", False),  # the pattern alone
    (UUID, "3f2b8c1a-0d4e-4f6a-9b7c-1234567890ab", True),
    (UUID, "3f2b8c1a-0d4e-9f6a-9b7c-1234567890ab", False),  # no version 9
    (DATE, "2024-02-29", True),
    (DATE, "2023-02-29", False),
    (MOMENT, "2024-02-29T23:59:59Z", True),
    (MOMENT, "2024-02-29T23:59Z", False),  # the format wants seconds
    (MOMENT, "2024-02-29T23:59:59+01:00", False),  # the pattern wants Z
    (IPV4, "192.168.0.255", True),
    (IPV4, "192.168.0.256", False),
    (ENDS, "ab", True),
    (ENDS, "a quick b", True),
    (ENDS, "abc", False),
    (PASSWORD, "Passw0rd", True),
    (PASSWORD, "passw0rd", False),
    (PASSWORD, "Passw0r", False),
    (PASSWORD, "Pass w0rd", False),
    (string("^(?:ab)+$", maxLength=5), "abab", True),
    (string("^(?:ab)+$", maxLength=5), "ababab", False),
    (string("^(?:ab)+$", minLength=3), "ab", False),
    ({"type": "string", "format": "email", "minLength": 8, "maxLength": 20}, "a@b.c", False),
    ({"type": "string", "format": "email", "minLength": 8, "maxLength": 20}, "abc@d.efg", True),
    (string('^(?!x)[x"y]*$'), 'y\\"x', True),  # as it stands in JSON
    (string('^(?!x)[x"y]*$'), "xy", False),
    (string("(^(?!a).$|^bc$)"), "b", True),
    (string("(^(?!a).$|^bc$)"), "bc", True),
    (string("(^(?!a).$|^bc$)"), "a", False),
    (string("^(?=ab$)[a-z]+"), "ab", True),  # the look-ahead alone says where it ends
    (string("^(?=ab$)[a-z]+"), "abc", False),
]


@pytest.mark.parametrize(("schema", "text", "taken"), TAKEN)
def test_a_string_is_held_to_all_of_them(
    model: Model, schema: dict[str, Any], text: str, taken: bool
) -> None:
    with GrammarWalk(model, json_schema_grammar(schema)) as walk:
        assert walk.accepts(f'"{text}"') is taken


def test_a_format_that_is_too_much_is_an_annotation(model: Model) -> None:
    """Every tenth character from the end is told apart: thousands of states with an address."""
    schema = string(r"^[a-z@.]*a[a-z@.]{9}$", format="email", maxLength=60)
    with pytest.raises(UsageProblem, match="too much together to be enforced"):
        json_schema_grammar(schema)
    del schema["maxLength"]
    with GrammarWalk(model, json_schema_grammar(schema)) as walk:
        assert walk.accepts('"a........."')


def test_addresses_of_pages_with_a_length(model: Model) -> None:
    """2083 is pydantic's HttpUrl, within which what the format lets through lies."""
    url = {"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083}
    with GrammarWalk(model, json_schema_grammar(url)) as walk:
        assert walk.accepts('"https://example.org:8080/a/%20b?x=1&y=/#z"')
        assert not walk.accepts('"example.org"')
    longest = lengths(regex.parse(f"^(?:{FORMATS['uri']})$"))[1]
    assert longest is not None
    assert longest <= 2083
    with GrammarWalk(model, json_schema_grammar({**url, "maxLength": 5})) as walk:
        assert walk.accepts('"a://b"')
        assert not walk.accepts('"abcde"')
    with GrammarWalk(model, json_schema_grammar({**url, "maxLength": 300})) as walk:
        assert walk.accepts('"https://example.org"')  # too much together: the length counts
        assert not walk.accepts(f'"https://example.org/{"a" * 300}"')


def test_patterns_of_which_none_can_hold() -> None:
    with pytest.raises(UsageProblem, match="nothing satisfies"):
        json_schema_grammar({"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "^b"}]})
    with pytest.raises(UsageProblem, match="nothing satisfies"):
        json_schema_grammar(string("^(?:ab)+$", minLength=5, maxLength=5))


BOMBS = [
    {"type": "string", "allOf": [{"pattern": "^.*a.{12}$"}, {"pattern": "^.*b.{13}$"}]},
    string("^(?!.*(a|b|c).{500}d)(x|y.{300})*$"),
    string("^((a?){1000}b){1000}$", maxLength=5000),
    string("^[a-z]*b$", maxLength=1400),
    string("^(?!" + "(" * 20 + "a*" + ")*" * 20 + "b)" + "(a|b)*" * 60 + "$"),
    string("^(?!" + "|".join(f"{n:x}" * 3 for n in range(400)) + ")[0-9a-f]{1,4000}$"),
]


@pytest.mark.parametrize("schema", BOMBS)
def test_bombs_are_refused_or_small(schema: dict[str, Any]) -> None:
    began = time.process_time()
    try:
        assert len(json_schema_grammar(schema)) < 1 << 18
    except UsageProblem as problem:
        assert "too much" in problem.message or "more than" in problem.message
    assert time.process_time() - began < 10  # a bound against minutes, not a measurement


def test_of_states_with_one_future_there_is_one() -> None:
    found = automaton(patterns.All((regex.parse("^(?:a|b)(?:c|d)$"), regex.parse("^[a-d]{2}$"))))
    assert len(found.ends) == 3
    assert found.ends == (False, False, True)


def reads(found: Automaton, text: str) -> bool:
    at = 0
    for char in text if found.ends else "x":
        steps = found.steps[at].items() if found.ends else ()
        onward = [
            target
            for target, chars in steps
            if any(low <= ord(char) <= high for low, high in chars.ranges)
        ]
        assert len(onward) <= 1
        if not onward:
            return False
        at = onward[0]
    return found.ends[at]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    patterns_=st.lists(REGEXES, min_size=1, max_size=3),
    ahead=st.lists(st.tuples(st.sampled_from(["(?=", "(?!"]), REGEXES, st.sampled_from(["", "$"])),
                   max_size=2),
    least=st.integers(0, 3), more=st.one_of(st.none(), st.integers(0, 4)),
    texts=st.lists(st.text("abc1_", max_size=6), min_size=1, max_size=8),
)  # fmt: skip
def test_together_they_say_what_python_says_of_each(
    patterns_: list[str], ahead: list[tuple[str, str, str]], least: int, more: int | None,
    texts: list[str],
) -> None:  # fmt: skip
    looking = "".join(f"{mark}{inner}{end})" for mark, inner, end in ahead)
    whole = [f"^{looking}(?:{patterns_[0]})$", *(f"^(?:{p})" for p in patterns_[1:])]
    most = None if more is None else least + more
    length = patterns.Times(patterns.ANY, least, most)
    language = patterns.All((*map(regex.parse, whole), length))
    found = automaton(language)
    for text in texts:
        wanted = all(re.search(p, text) for p in whole) and least <= len(text)
        wanted = wanted and (most is None or len(text) <= most)
        assert reads(found, text) is wanted
        assert patterns.matches(language, text) is wanted
