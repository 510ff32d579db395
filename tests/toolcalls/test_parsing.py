"""Answers of real models' forms, cut in any way: calls, text that only looks like one, ids."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.toolcalls import CallStart, TextPart, Tool, ToolFormat, read_calls
from localllm.toolcalls.formats import FORMATS

TOOLS = [
    Tool("get_weather", "", {"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"},
        "size": {"type": ["number", "null"]}, "tags": {"type": "array"}}}),
    Tool("now"),
]  # fmt: skip

SEP, BEGIN, END = "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
PARIS = ("get_weather", '{"city": "Paris"}')
# format, answer, its text, its calls with their arguments as they are written
ANSWERS: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    ("hermes", 'Sure.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
     "</tool_call>", "Sure.", [PARIS]),
    ("hermes", '<tool_call>{"arguments":{"days":1.10,"city":"é \\"x\\" </tool_call> 👍"},'
     '"name":"get_weather"}</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n'
     "</tool_call>\n", "",
     [("get_weather", '{"days":1.10,"city":"é \\"x\\" </tool_call> 👍"}'), ("now", "{}")]),
    ("hermes", '<tool_call>{"name":"now","arguments":"{\\"a\\": 1}"}</tool_call>', "",
     [("now", '{"a": 1}')]),
    ("hermes", "a <tool_call> is a tag, <tool", "a <tool_call> is a tag, <tool", []),
    ("hermes", '<tool_call>{"name": "now", "arguments": {}', '<tool_call>{"name": "now", '
     '"arguments": {}', []),
    ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
     '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', []),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": 01}}</tool_call>!',
     '<tool_call>{"name": "now", "arguments": {"a": 01}}</tool_call>!', []),
    ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>',
     '<tool_call>{"name": "now", "arguments": [1]}</tool_call>', []),
    ("hermes", '<tool_call><tool_call>{"name": "now", "arguments": {}}</tool_call>',
     "<tool_call>", [("now", "{}")]),
    ("hermes", "  \n ", "  \n ", []),
    ("qwen3-coder", "I look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\n"
     'New "York"\n<b>\n</parameter>\n<parameter=days>\n7\n</parameter>\n<parameter=exact>\n'
     "true\n</parameter>\n</function>\n</tool_call>", "I look.",
     [("get_weather", '{"city": "New \\"York\\"\\n<b>", "days": 7, "exact": true}')]),
    ("qwen3-coder", "<tool_call>\n<function=now>\n</function>\n</tool_call>", "",
     [("now", "{}")]),
    ("qwen3-coder", "<function=now>\n</function>\n</tool_call>", "", [("now", "{}")]),
    ("qwen3-coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nx</parameter>y\n"
     "</parameter>\n</function>\n</tool_call>", "",
     [("get_weather", '{"city": "x</parameter>y"}')]),
    ("qwen3-coder", "<tool_call>\n<function=get_weather>\n<parameter=days>\nmany\n</parameter>\n"
     "</function>\n</tool_call>", "<tool_call>\n<function=get_weather>\n<parameter=days>\nmany\n"
     "</parameter>\n</function>\n</tool_call>", []),
    ("qwen3-coder", "<tool_call>\n<function=get_weather>\n<parameter=size>\nnull\n</parameter>\n"
     "<parameter=city>\n12\n</parameter>\n</function>\n</tool_call>", "",
     [("get_weather", '{"size": null, "city": "12"}')]),
    ("glm", "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
     "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>", "",
     [("get_weather", '{"city": "Paris", "days": 2}')]),
    ("minimax", '<minimax:tool_call>\n<invoke name="now">\n</invoke>\n<invoke name="get_weather">'
     '\n<parameter name="city">Paris</parameter>\n</invoke>\n</minimax:tool_call>', "",
     [("now", "{}"), PARIS]),
    ("llama3", '{"name": "get_weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3", '\n<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}', "",
     [PARIS]),
    ("llama3", '{"type": "function", "name": "now", "parameters": {}}', "", [("now", "{}")]),
    ("llama3", '{"answer": 42}', '{"answer": 42}', []),
    ("llama3", 'It is {"name": "now", "parameters": {}}', 'It is {"name": "now", "parameters": {}}',
     []),
    ("llama4", '[get_weather(city="Paris"), now()]', "", [PARIS, ("now", "{}")]),
    ("llama4", "[1, 2, 3] are numbers", "[1, 2, 3] are numbers", []),
    ("lfm2", "<|tool_call_start|>[get_weather(city='a\"]', days=1.50, exact=True, "
     "tags=[None, {'k': -2}])]<|tool_call_end|>Wait.", "Wait.",
     [("get_weather", '{"city": "a\\"]", "days": 1.50, "exact": true, '
       '"tags": [null, {"k": -2}]}')]),
    ("lfm2", "<|tool_call_start|>[get_weather(city=open('x').read())]<|tool_call_end|>",
     "<|tool_call_start|>[get_weather(city=open('x').read())]<|tool_call_end|>", []),
    ("mistral", '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, '
     '"id": "aB3dE6gH9"}, {"name": "now", "arguments": {}}]', "", [PARIS, ("now", "{}")]),
    ("mistral-args", '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}', "",
     [PARIS, ("now", "{}")]),
    ("mistral-call-id", '[TOOL_CALLS]get_weather[CALL_ID]aB3dE6gH9[ARGS]{"city": "Paris"}', "",
     [PARIS]),
    ("functionary-v3.1", 'Well. <function=get_weather>{"city": "Paris"}</function>', "Well.",
     [PARIS]),
    ("functionary-v3.2", 'get_weather\n{"city": "Paris"}>>>now\n{}', "", [PARIS, ("now", "{}")]),
    ("functionary-v3.2", 'all\nLet me see >>> there.>>>now\n{}', "Let me see >>> there.",
     [("now", "{}")]),
    ("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
     'to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>', "",
     [PARIS]),
    ("harmony", ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Paris"}',
     "", [PARIS]),
    ("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final"
     "<|message|>Paris, of course.<|return|>", "Paris, of course.", []),
    ("deepseek-r1", f"<｜tool▁calls▁begin｜>{BEGIN}function{SEP}get_weather\n```json\n"
     f'{{"city": "Paris"}}\n```{END}\n{BEGIN}function{SEP}now\n```json\n{{}}\n```{END}'
     "<｜tool▁calls▁end｜>", "", [PARIS, ("now", "{}")]),
    ("deepseek-v3.1", f'Ok.<｜tool▁calls▁begin｜>{BEGIN}get_weather{SEP}{{"city": "Paris"}}{END}'
     "<｜tool▁calls▁end｜>", "Ok.", [PARIS]),
    ("kimi-k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
     '<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>',
     "", [PARIS]),
    ("command-r7b", '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
     '"parameters": {"city": "Paris"}}\n]<|END_ACTION|>', "", [PARIS]),
    ("command-r", 'Action:\n```json\n[\n  {"tool_name": "now", "parameters": {}}\n]```', "",
     [("now", "{}")]),
    ("granite", '<|tool_call|>[{"name": "now", "arguments": {}}]', "", [("now", "{}")]),
    ("nemotron", '<TOOLCALL>[{"name": "now", "arguments": {}}]</TOOLCALL>', "", [("now", "{}")]),
    ("tool-calls", '<tool_calls>[{"name": "now", "arguments": {}, "id": "7"}]</tool_calls>', "",
     [("now", "{}")]),
    ("minimax-m1", '<tool_calls>\n{"name": "now", "arguments": {}}\n{"name": "get_weather", '
     '"arguments": {"city": "Paris"}}\n</tool_calls>', "", [("now", "{}"), PARIS]),
    ("firefunction", ' functools[{"name": "now", "arguments": {}}]', "", [("now", "{}")]),
    ("apertus", '<|tools_prefix|>[{"get_weather": {"city": "Paris"}}]<|tools_suffix|>', "",
     [PARIS]),
    ("phi4", '<|tool_call|>[{"name": "now", "arguments": {}}]<|/tool_call|>', "", [("now", "{}")]),
    ("seed", "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n"
     "</function>\n</seed:tool_call>", "", [PARIS]),
    ("gemma4", 'Ok.<|tool_call>call:get_weather{city:<|"|>"a" {b}, <tool_call|><|"|>,days:1.50,'
     'tags:[{<|"|>k<|"|>:null},true,"x"]}<tool_call|><|tool_call>call:now{}<tool_call|>', "Ok.",
     [("get_weather", '{"city": "\\"a\\" {b}, <tool_call|>", "days": 1.50, '
       '"tags": [{"k": null}, true, "x"]}'), ("now", "{}")]),
    ("gemma4", "<|tool_call>call:now{a:b}<tool_call|>",
     "<|tool_call>call:now{a:b}<tool_call|>", []),
    ("none", '<tool_call>{"name": "now", "arguments": {}}</tool_call>',
     '<tool_call>{"name": "now", "arguments": {}}</tool_call>', []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "text", "calls"), ANSWERS)
def test_an_answer(name: str, answer: str, text: str, calls: list[tuple[str, str]]) -> None:
    said, found = read_calls(FORMATS[name].parser(TOOLS), answer)
    assert [(c.name, c.arguments) for c in found] == calls
    assert said == text
    for call in found:
        json.loads(call.arguments)
    assert len({call.id for call in found}) == len(found)


def test_every_format_is_among_the_answers() -> None:
    assert {name for name, *_ in ANSWERS} == set(FORMATS)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(answer=st.sampled_from(ANSWERS), cuts=st.lists(st.integers(0, 400), max_size=60))
def test_how_it_is_cut_changes_nothing(answer: Any, cuts: list[int]) -> None:
    name, whole, *_ = answer
    ends = sorted({0, len(whole), *(c for c in cuts if c < len(whole))})
    parser = FORMATS[name].parser(TOOLS, lambda: "id")
    parts = [p for a, b in pairwise(ends) for p in parser.feed(whole[a:b])] + parser.finish()
    once = FORMATS[name].parser(TOOLS, lambda: "id")
    assert _merged(parts) == _merged([*once.feed(whole), *once.finish()])


@pytest.mark.parametrize(("name", "answer", "text", "calls"), ANSWERS)
def test_character_by_character(name: str, answer: str, text: str, calls: Any) -> None:
    parser = FORMATS[name].parser(TOOLS)
    parts = [p for char in answer for p in parser.feed(char)] + parser.finish()
    shown = [p.text for p in parts if isinstance(p, TextPart) and not p.thinking]
    assert "".join(shown) == text
    assert [p.name for p in parts if isinstance(p, CallStart)] == [n for n, _ in calls]


MARKS = sorted({m for f in FORMATS.values() for s in f.syntaxes for m in s.openers})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(set(FORMATS) - {"harmony", "functionary-v3.2"})),
    pieces=st.lists(st.text(max_size=5) | st.sampled_from([*MARKS, "{", "}", '"', "[", "now"]),
                    max_size=12),
)  # fmt: skip
def test_what_is_no_call_is_given_back_whole(name: str, pieces: list[str]) -> None:
    parser = FORMATS[name].parser(TOOLS)
    parts = [p for piece in pieces for p in parser.feed(piece)] + parser.finish()
    if not any(isinstance(p, CallStart) for p in parts):
        assert "".join(p.text for p in parts if isinstance(p, TextPart)) == "".join(pieces)


def test_text_is_not_held_back_longer_than_it_must() -> None:
    parser = FORMATS["hermes"].parser(TOOLS)
    assert parser.feed("Hello, wor") == [TextPart("Hello, wor")]
    assert parser.feed("ld. <") == [TextPart("ld.")]
    assert parser.feed("b> x") == [TextPart(" <b> x")]


def test_thinking_in_channels_is_marked() -> None:
    parser = FORMATS["harmony"].parser(TOOLS)
    parts = parser.feed("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>"
                        "final<|message|>Yes.") + parser.finish()  # fmt: skip
    assert parts == [TextPart("Hm.", thinking=True), TextPart("Yes.")]


def test_ids_are_what_each_format_wants() -> None:
    mistral = read_calls(FORMATS["mistral"].parser(TOOLS), ANSWERS_BY["mistral"])[1]
    assert mistral[0].id == "aB3dE6gH9"
    assert re.fullmatch("[A-Za-z0-9]{9}", mistral[1].id)
    kimi = read_calls(FORMATS["kimi-k2"].parser(TOOLS), ANSWERS_BY["kimi-k2"])[1]
    assert kimi[0].id == "functions.get_weather:0"
    hermes = read_calls(FORMATS["hermes"].parser(TOOLS), ANSWERS_BY["hermes"])[1]
    assert re.fullmatch("call_[A-Za-z0-9]{24}", hermes[0].id)


ANSWERS_BY = {name: answer for name, answer, *_ in reversed(ANSWERS)}


def test_a_long_call_in_small_pieces_is_read_in_linear_time() -> None:
    body = json.dumps({"name": "get_weather", "arguments": {"city": 'x{[\\"' * 40_000}})
    parser = FORMATS["hermes"].parser(TOOLS)
    answer = f"<tool_call>{body}</tool_call>"
    parts = [p for n in range(0, len(answer), 4) for p in parser.feed(answer[n : n + 4])]
    assert [p.name for p in parts + parser.finish() if isinstance(p, CallStart)] == ["get_weather"]


@pytest.mark.parametrize("answer", [
    "<tool_call>" * 2000, "<tool_call>" + "[" * 5000, "<tool_call>" + '{"a":' * 5000,
    '<tool_call>{"name": "now", "arguments": {"a": ' + "9" * 10_000 + "}}</tool_call>",
    "<tool_call>\n<function=" + "a" * 9000, "<|tool_call_start|>[" + "f(a=" * 3000,
    "<|tool_call_start|>[now(a=" + "-" * 3000 + "1)]", "[" * 3000, "{" * 3000,
])  # fmt: skip
def test_hostile_answers_are_text(answer: str) -> None:
    for name in ("hermes", "qwen3-coder", "lfm2", "llama3", "llama4", "glm"):
        said, calls = read_calls(FORMATS[name].parser(TOOLS), answer)
        assert said == answer or calls


def test_an_unknown_template_has_no_calls() -> None:
    assert not ToolFormat.of("{{ messages }}").known
    assert ToolFormat.of("{{ messages }}", "llama4").name == "llama4"


def _merged(parts: list[Any]) -> list[Any]:
    found: list[Any] = []
    for part in parts:
        last = found[-1] if found else None
        both = isinstance(part, TextPart) and isinstance(last, TextPart)
        if both and part.thinking == last.thinking:
            found[-1] = TextPart(last.text + part.text, part.thinking)
        else:
            found.append(part)
    return found
