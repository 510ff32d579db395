"""Tool calls: forced by grammar, told from text, streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serve.conftest import Server

USER = [{"role": "user", "content": "weather?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def chat(server: Server, **more: Any) -> Any:
    body = {"model": "tools", "messages": USER, "tools": [WEATHER, CLOCK], "max_tokens": 300,
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "seed": 1} | more  # fmt: skip
    return server.post("/v1/chat/completions", body)


def check(call: dict[str, Any]) -> None:
    assert call["function"]["name"] == "weather"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["city"] in ("Oslo", "Rome")
    assert isinstance(arguments["days"], int)


def test_a_forced_call(server: Server) -> None:
    (choice,) = chat(server).json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"]
    check(call)
    assert choice["message"]["content"] is None


def test_a_forced_call_streamed(server: Server) -> None:
    events = chat(server, stream=True).events
    assert events[-1] is None
    choices = [one["choices"][0] for one in events[:-1]]
    assert choices[-1]["finish_reason"] == "tool_calls"
    deltas = [c for one in choices for c in one["delta"].get("tool_calls", ())]
    assert {one["index"] for one in deltas} == {0}
    assert deltas[0]["id"] and deltas[0]["type"] == "function"
    arguments = "".join(one["function"].get("arguments", "") for one in deltas)
    check({"function": {"name": deltas[0]["function"]["name"], "arguments": arguments}})
    assert not any(one["delta"].get("content") for one in choices)


def test_required_calls_one_of_them(server: Server) -> None:
    (choice,) = chat(server, tool_choice="required", parallel_tool_calls=False).json["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] in ("weather", "clock")


def test_none_calls_nothing(server: Server) -> None:
    (choice,) = chat(server, tool_choice="none", max_tokens=5).json["choices"]
    assert "tool_calls" not in choice["message"]


def test_what_was_called_and_what_it_brought_go_back(server: Server) -> None:
    call = chat(server).json["choices"][0]["message"]["tool_calls"][0]
    messages = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
    ]
    done = chat(server, messages=messages, tools=[CLOCK], tool_choice="auto", max_tokens=5)
    assert done.status == 200, done.body


def test_a_model_without_tools_says_so(server: Server) -> None:
    done = chat(server, model="hi", tool_choice="auto")
    assert done.status == 400
    assert "tools" in done.json["error"]["message"]


@pytest.mark.parametrize(
    "tools",
    [[{"type": "web_search"}], [{"type": "function", "function": {"name": "a b"}}],
     [CLOCK, CLOCK], [{"type": "function", "function": {"name": "x", "parameters": 7}}]],
)  # fmt: skip
def test_bad_tools(server: Server, tools: list[Any]) -> None:
    assert chat(server, tools=tools, tool_choice="auto").status == 400


def test_a_choice_that_is_no_tool(server: Server) -> None:
    done = chat(server, tool_choice={"type": "function", "function": {"name": "other"}})
    assert done.status == 400
    assert done.json["error"]["param"] == "tool_choice"


def test_responses_call_too(server: Server) -> None:
    body = {"model": "tools", "input": "weather?", "max_output_tokens": 300,
            "tools": [{"type": "function", **WEATHER["function"]}],
            "tool_choice": {"type": "function", "name": "weather"}}  # fmt: skip
    found = server.post("/v1/responses", body).json
    (item,) = found["output"]
    assert item["type"] == "function_call"
    check({"function": item})
    events = server.post("/v1/responses", body | {"stream": True}).events
    kinds = [one["type"] for one in events]
    assert "response.function_call_arguments.delta" in kinds
    done = next(e for e in events if e["type"] == "response.function_call_arguments.done")
    check({"function": {"name": "weather", "arguments": done["arguments"]}})
    again = [
        {"role": "user", "content": "weather?"},
        item,
        {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"},
    ]
    follow = body | {"input": again, "tool_choice": "none", "max_output_tokens": 3}
    assert server.post("/v1/responses", follow).status == 200


def test_responses_offered_what_agents_offer_unasked(server: Server) -> None:
    """As Codex asks: functions of a namespace, and a search that runs on OpenAI's machines."""
    schema = {
        "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False
    }  # fmt: skip
    star = {"type": "function", "name": "star", "parameters": schema}
    inside = {"type": "namespace", "name": "sky", "tools": [star]}
    search = {"type": "web_search", "external_web_access": False}
    body = {"model": "tools", "input": "weather?", "max_output_tokens": 300, "store": False,
            "tools": [search, {"type": "function", "name": "clock"}, inside],
            "tool_choice": {"type": "function", "name": "star"}}  # fmt: skip
    found = server.post("/v1/responses", body).json
    (item,) = found["output"]
    assert (item["namespace"], item["name"]) == ("sky", "star")
    assert json.loads(item["arguments"])["n"] in (1, 2)
    assert [one["type"] for one in found["tools"]] == ["function", "namespace"]
    assert [one["name"] for one in found["tools"][1]["tools"]] == ["star"]
    events = server.post("/v1/responses", body | {"stream": True}).events
    told = [one["item"] for one in events if one["type"].startswith("response.output_item.")]
    assert [one["namespace"] for one in told] == ["sky", "sky"]
    again = [
        {"role": "user", "content": "weather?"},
        item,
        {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"},
    ]
    follow = body | {"input": again, "tool_choice": "none", "max_output_tokens": 3}
    assert server.post("/v1/responses", follow).status == 200
    only = server.post("/v1/responses", body | {"tools": [search], "tool_choice": "required"})
    assert only.status == 400
    assert only.json["error"]["param"] == "tool_choice"


@pytest.mark.parametrize(
    "tools",
    [[{"type": "file_search", "vector_store_ids": ["vs_1"]}], [{"type": "functoin", "name": "a"}],
     [{"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}],
     [{"type": "function", "name": "a"},
      {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "a"}]}]],
)  # fmt: skip
def test_bad_tools_of_responses(server: Server, tools: list[Any]) -> None:
    done = server.post("/v1/responses", {"model": "tools", "input": "hi", "tools": tools})
    assert done.status == 400
    assert done.json["error"]["param"] == "tools"
