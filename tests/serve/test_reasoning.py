"""What was thought, in /v1/responses: told as clients ask for it, and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from localllm.registry import Registry
from tests.serve.conftest import Server, add, start
from tests.serve.test_tools import CLOCK
from tests.support.scripted import scripted

TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools><tool_call>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}{% if m.tool_calls %}<tool_call>{{ m.tool_calls | length }}</tool_call>"
    "{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant"
    "{{ '#' if messages[-1].role == 'tool' else '\n' }}"
)
CALL = '\n{"name": "clock", "arguments": {}}\n'
TOOL = {"type": "function", **CLOCK["function"], "parameters": {"type": "object"}}  # type: ignore[dict-item]
USER = {"role": "user", "content": "x"}
SUMMED = {"reasoning": {"effort": "low", "summary": "auto"}}
SEALED = {"include": ["reasoning.encrypted_content"], "store": False}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`thinker` thinks and calls clock; after a result it says something."""
    folder = tmp_path_factory.mktemp("reasoning")
    says = {"\n": ["<think>", "Let me ", "see.", "</think>", "<tool_call>", CALL, "</tool_call>"],
            "#": ["It is", " noon."]}  # fmt: skip
    path = scripted(folder / "t.gguf", says, chat_template=TEMPLATE)
    add(Registry(folder / "home"), "thinker", path)
    server = start(folder / "home", "--threads", "1", "--ctx", "512")
    yield server
    assert server.stop() == (0, "")


def ask(server: Server, **more: Any) -> Any:
    body = {"model": "thinker", "input": [USER], "tools": [TOOL], "temperature": 0}
    return server.post("/v1/responses", body | more)


def result(call: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call["call_id"], "output": "noon"}


def n_input(reply: Any) -> int:
    assert reply.status == 200, reply.body
    return int(reply.json["usage"]["input_tokens"])


def test_thinking_is_a_summary_where_one_is_asked_for(own: Server) -> None:
    plain, _ = ask(own).json["output"]
    assert plain["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert plain["summary"] == []
    whole = ask(own, **SUMMED).json
    assert whole["reasoning"] == {"effort": "low", "summary": "auto"}
    thought, _ = whole["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "Let me see."}]
    assert "content" not in thought
    older = ask(own, reasoning={"generate_summary": "concise"}).json
    assert older["output"][0]["summary"] == thought["summary"]


def test_the_events_of_a_summary(own: Server) -> None:
    events = ask(own, stream=True, **SUMMED).events
    kinds = [one["type"] for one in events]
    first = kinds.index("response.reasoning_summary_part.added")
    assert kinds[first - 1] == "response.output_item.added"
    deltas = [e for e in events if e["type"] == "response.reasoning_summary_text.delta"]
    assert "".join(one["delta"] for one in deltas) == "Let me see."
    assert {one["summary_index"] for one in deltas} == {0}
    last = kinds.index("response.reasoning_summary_text.done")
    assert events[last]["text"] == "Let me see."
    assert events[last + 1]["type"] == "response.reasoning_summary_part.done"
    assert events[last + 1]["part"] == {"type": "summary_text", "text": "Let me see."}
    assert not any("reasoning_text" in kind or "content_part" in kind for kind in kinds)


def test_what_was_thought_goes_back(own: Server) -> None:
    """Between a call and its result models go on from their thinking."""
    first = ask(own).json
    thought, call = first["output"]
    without = n_input(ask(own, input=[USER, call, result(call)]))
    back = ask(own, input=[USER, thought, call, result(call)])
    assert back.json["output"][0]["content"][0]["text"] == "It is noon."
    tool_call = {"id": call["call_id"], "type": "function",
                 "function": {"name": "clock", "arguments": "{}"}}  # fmt: skip
    messages = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [tool_call],
         "reasoning_content": "Let me see."},
        {"role": "tool", "tool_call_id": call["call_id"], "content": "noon"},
    ]  # fmt: skip
    chat = own.post("/v1/chat/completions", {"model": "thinker", "messages": messages, "tools": [
        CLOCK | {"function": {**CLOCK["function"], "parameters": {"type": "object"}}}  # type: ignore[dict-item]
    ]}).json["usage"]["prompt_tokens"]  # fmt: skip
    assert n_input(back) == chat > without
    assert n_input(ask(own, input=[result(call)], previous_response_id=first["id"])) == chat
    referred = [{"type": "item_reference", "id": one["id"]} for one in first["output"]]
    assert n_input(ask(own, input=[USER, *referred, result(call)])) == chat
    summed, other = ask(own, **SUMMED).json["output"]
    assert n_input(ask(own, input=[USER, summed, other, result(other)])) == chat
    nobody = [USER, thought, USER]  # thought for no turn
    assert n_input(ask(own, input=nobody)) == n_input(ask(own, input=[USER, USER]))


def test_thinking_comes_back_from_clients_that_keep_only_the_seal(own: Server) -> None:
    thought, call = ask(own, **SUMMED, **SEALED).json["output"]
    seal = {"type": "reasoning", "id": thought["id"], "summary": [],
            "encrypted_content": thought["encrypted_content"]}  # fmt: skip
    with_it = n_input(ask(own, input=[USER, thought, call, result(call)]))
    assert n_input(ask(own, input=[USER, seal, call, result(call)])) == with_it
    without = n_input(ask(own, input=[USER, call, result(call)]))
    assert without < with_it
    foreign = {**seal, "encrypted_content": "gAAAAABo" + "x" * 40}
    for other in (foreign, {**seal, "encrypted_content": "localllm.?"}):
        assert n_input(ask(own, input=[USER, other, call, result(call)])) == without
    streamed = ask(own, stream=True, **SEALED).events[-1]["response"]["output"][0]
    assert streamed["encrypted_content"] == thought["encrypted_content"]
    assert "encrypted_content" not in ask(own).json["output"][0]
