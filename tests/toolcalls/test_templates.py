"""The formats against chat templates: which one a template speaks, and that we read what it
writes.

The marks of every template that llama.cpp carries are in `marks.json`. With
LOCALLLM_TEST_TEMPLATES naming its folder models/templates, the templates themselves are rendered
with tools and calls, and the calls read back.
"""

from __future__ import annotations

import json
import os
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from localllm.engine.template import ChatTemplate
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Message
from localllm.toolcalls import Tool, ToolFormat, read_calls

MARKS = json.loads(Path(__file__).with_name("marks.json").read_text(encoding="utf-8"))
# Templates whose calls cannot be had from them, and why
UNRENDERED = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "wants a schema with additionalProperties inside",
    "Kimi-K2-Instruct": "appends to a list, which Hugging Face's sandbox refuses too",
    "Kimi-K2-Thinking": "appends to a list, which Hugging Face's sandbox refuses too",
    "LFM2-8B-A1B": "writes no calls of earlier turns",
    "LFM2.5-Instruct": "writes no calls of earlier turns",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "writes calls only where content is missing",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "writes calls only where content is missing",
    "fireworks-ai-llama-3-firefunction-v2": "takes `functions` in place of `tools`",
    "ibm-granite-granite-3.3-2B-Instruct": "writes no calls of earlier turns",
    "llama-cpp-deepseek-r1": "makes JSON of a generator",
}
PLAIN_ONLY = {"ByteDance-Seed-OSS"}  # writes objects as Python would
FOLDER = os.environ.get("LOCALLLM_TEST_TEMPLATES")
TEMPLATES = sorted(Path(FOLDER).glob("*.jinja")) if FOLDER else []

WEATHER = Tool(
    "get_weather",
    "Weather of a place.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where"},
            "days": {"type": "integer", "description": "How long"},
            "where": {"type": "object", "properties": {"lat": {"type": "number"}}},
        },
        "required": ["city"],
    },
)
ARGUMENTS = {"city": 'Zürich "West" <b>', "days": 3, "where": {"lat": 47.5}}


@pytest.mark.parametrize("name", sorted(MARKS))
def test_a_template_is_known_by_its_marks(name: str) -> None:
    assert ToolFormat.of("\n".join(MARKS[name]["marks"])).name == MARKS[name]["format"]


def rendered_call(template: ChatTemplate, call_id: str, given: dict[str, Any]) -> str:
    """What the template writes of an assistant's call: the answer that a model would give."""
    tools = [WEATHER.as_openai()]
    call = {"name": WEATHER.name, "arguments": json.dumps(given, ensure_ascii=False)}
    calls = [{"id": call_id, "type": "function", "function": call}]
    asked = [Message("user", "Weather?")]
    answered = [*asked, Message("assistant", "", {"tool_calls": calls})]
    after = template.render(answered, tools=tools, add_generation_prompt=False).text
    for opened in (True, False):
        before = template.render(asked, tools=tools, add_generation_prompt=opened).text
        if after.startswith(before):
            break
    n = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    return after[n or len(before) :]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_what_a_template_writes_is_read(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    format = ToolFormat.of(source)
    assert format.name == MARKS[path.stem]["format"]
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    given = {k: v for k, v in ARGUMENTS.items() if k != "where" or path.stem not in PLAIN_ONLY}
    template = ChatTemplate(source, tokens=tokens, now=lambda: datetime(2026, 1, 1))
    try:
        text = rendered_call(template, "abcdef012", given)
    except (UsageProblem, EngineError) as e:
        assert path.stem in UNRENDERED, e.message
        return
    if not format.known or path.stem in UNRENDERED:
        return
    said, calls = read_calls(format.parser([WEATHER]), text)
    assert [c.name for c in calls] == ["get_weather"], text
    assert json.loads(calls[0].arguments) == given, text
    rng = random.Random(7)
    for _ in range(20):
        parser, parts = format.parser([WEATHER], lambda: "x"), []
        at = 0
        while at < len(text):
            step = rng.choice([1, 1, 2, 3, 7, 40])
            parts += parser.feed(text[at : at + step])
            at += step
        parts += parser.finish()
        whole = format.parser([WEATHER], lambda: "x")
        assert joined(parts) == joined([*whole.feed(text), *whole.finish()])
    assert "get_weather" not in said


def joined(parts: list[Any]) -> list[Any]:
    found: list[Any] = []
    for part in parts:
        text = getattr(part, "text", None)
        if found and text is not None and type(found[-1]) is type(part):
            found[-1] = type(part)(found[-1].text + text)
        else:
            found.append(part)
    return found
