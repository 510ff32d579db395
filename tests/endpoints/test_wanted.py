"""What is sent: only what the server knows."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from localllm.endpoints import KINDS, Endpoint, Wanted, unsent
from localllm.endpoints.wanted import body_of
from localllm.errors import UsageProblem
from localllm.generation import Message, Sampling
from localllm.toolcalls import Tool

HELLO = (Message("user", "hello"),)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def far(kind: str = "openai") -> Endpoint:
    return Endpoint("far", "http://h/v1", model="remote", kind=kind)  # type: ignore[arg-type]


def body(kind: str = "openai", **more: Any) -> dict[str, Any]:
    return body_of(far(kind), Wanted(**{"messages": HELLO, **more}))


def test_defaults_are_left_to_the_server() -> None:
    assert body() == {
        "model": "remote",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_was_decided_is_sent_even_where_it_is_our_default() -> None:
    sampling = Sampling(temperature=0.8, top_p=0.5)
    assert "temperature" not in body(sampling=sampling)
    sent = body(sampling=sampling, given=frozenset({"temperature"}))
    assert sent["temperature"] == 0.8
    assert "top_p" not in sent


@pytest.mark.parametrize(
    ("kind", "sent", "not_sent"),
    [
        ("openai", {}, ("top_k", "min_p", "repeat_penalty", "dry_multiplier")),
        ("ollama", {}, ("top_k", "min_p", "repeat_penalty", "dry_multiplier")),
        ("vllm", {"top_k": 5, "min_p": 0.2, "repetition_penalty": 1.5}, ("dry_multiplier",)),
        ("localllm", {"top_k": 5, "min_p": 0.2, "repeat_penalty": 1.5}, ("dry_multiplier",)),
        (
            "llama.cpp",
            {"top_k": 5, "min_p": 0.2, "repeat_penalty": 1.5, "dry_multiplier": 0.5},
            (),
        ),
    ],
)
def test_extras_go_to_those_who_know_them(
    kind: str, sent: dict[str, Any], not_sent: tuple[str, ...]
) -> None:
    sampling = Sampling(top_k=5, min_p=0.2, repeat_penalty=1.5, dry_multiplier=0.5, stop=("x",))
    found = body(kind, sampling=sampling)
    assert found["stop"] == ["x"]
    extras = {k: v for k, v in found.items() if k not in body() and k != "stop"}
    assert extras == sent
    assert unsent(far(kind), sampling, None) == not_sent


def test_a_schema_is_sent_as_such_and_a_grammar_only_to_llama_cpp() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    grammar = replace(Sampling(), grammar='root ::= "x"')
    for kind in KINDS:
        sent = body(kind, schema=schema, sampling=grammar)
        assert sent["response_format"]["json_schema"]["schema"] == schema
        assert "grammar" not in sent
    assert body("llama.cpp", sampling=grammar)["grammar"] == 'root ::= "x"'
    assert body("localllm", sampling=grammar)["grammar"] == 'root ::= "x"'
    for kind in ("openai", "vllm", "ollama"):
        with pytest.raises(UsageProblem, match="GBNF"):
            body(kind, sampling=grammar)
    assert body(schema={"type": "object"})["response_format"] == {"type": "json_object"}


def test_tools_and_how_they_are_chosen() -> None:
    tool = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
    assert "tool_choice" not in body(tools=(tool,))
    assert body(tools=(tool,))["tools"] == [tool.as_openai()]
    assert body(tools=(tool,), tool_choice="required")["tool_choice"] == "required"
    named = body(tools=(tool,), tool_choice="add", parallel_calls=False)
    assert named["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert named["parallel_tool_calls"] is False


def test_calls_and_results_get_ids_where_they_have_none() -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    messages = (
        Message("user", "1+1, 2+2"),
        Message("assistant", "", {"tool_calls": [call, call]}),
        Message("tool", "2", {"name": "add"}),
        Message("tool", "4"),
    )
    sent = body(messages=messages)["messages"]
    calls = sent[1]["tool_calls"]
    assert sent[1]["content"] is None
    assert [one["function"]["arguments"] for one in calls] == ['{"a": 1}'] * 2
    assert len({one["id"] for one in calls}) == 2
    assert [sent[2]["tool_call_id"], sent[3]["tool_call_id"]] == [one["id"] for one in calls]


def test_images_become_data_urls() -> None:
    sent = body(messages=(Message("user", "what?", {"images": (PNG,)}),))["messages"][0]["content"]
    assert sent[0] == {"type": "text", "text": "what?"}
    head, _, data = sent[1]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == PNG
    with pytest.raises(UsageProblem, match="image"):
        body(messages=(Message("user", "what?", {"images": (b"no image",)}),))


def test_thinking_goes_back_only_to_servers_of_local_models() -> None:
    messages = (Message("assistant", "yes", {"reasoning_content": "hm"}), *HELLO)
    assert "reasoning_content" not in body(messages=messages)["messages"][0]
    assert body("llama.cpp", messages=messages)["messages"][0]["reasoning_content"] == "hm"


def test_words_for_the_template() -> None:
    variables = {"enable_thinking": False, "reasoning_effort": "none"}
    assert body("vllm", variables=variables)["chat_template_kwargs"] == variables
    sent = body(variables=variables)
    assert sent["reasoning_effort"] == "none"
    assert "chat_template_kwargs" not in sent


def test_forbidden_tokens_are_minus_100() -> None:
    sent = body(logit_bias={7: float("-inf"), 8: 2.5})
    assert sent["logit_bias"] == {"7": -100.0, "8": 2.5}
