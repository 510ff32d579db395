"""Fields of the API references that clients rely on: what they mean, not only that they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localllm.registry import Registry
from tests.serve.conftest import HI, TOOL_TEMPLATE, Server, add, chain, start
from tests.serve.test_tools import CLOCK, WEATHER
from tests.support.tiny_models import CHATML, tiny_chain, tiny_llama

USER = [{"role": "user", "content": "x"}]
# Every other token of a chain stands this far behind: sqrt(512), its state's length.
BEHIND = -22.6
THINKS = CHATML.replace("assistant\n", "assistant\n<think>\n")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`thinker` thinks "ab" and says "cd"; `tools` calls; `sql` and `mine` are the operator's."""
    folder = tmp_path_factory.mktemp("fields")
    registry = Registry(folder / "home")
    said = chain("ab</think>cd")
    add(registry, "thinker", tiny_chain(folder / "t.gguf", said, chat_template=THINKS))
    add(registry, "tools", tiny_llama(folder / "w.gguf", chat_template=TOOL_TEMPLATE))
    path = tiny_chain(folder / "mine.gguf", chain(HI))
    server = start(
        folder / "home", "--threads", "1", "--ctx", "512", "--alias", "sql=thinker", path
    )
    yield server
    assert server.stop() == (0, "")


# --- tools ---------------------------------------------------------------------------------


def test_only_allowed_tools_are_called(own: Server) -> None:
    tools: list[Any] = [WEATHER, CLOCK]
    names = [{"type": "function", "function": {"name": "clock"}}]
    subset = {"mode": "required", "tools": names}
    body = {"model": "tools", "messages": USER, "tools": tools, "max_tokens": 200, "seed": 3,
            "tool_choice": {"type": "allowed_tools", "allowed_tools": subset}}  # fmt: skip
    for seed in range(4):
        (choice,) = own.post("/v1/chat/completions", body | {"seed": seed}).json["choices"]
        called = {one["function"]["name"] for one in choice["message"].get("tool_calls", ())}
        assert called <= {"clock"}
        assert called or choice["finish_reason"] == "length"
    responses = {"model": "tools", "input": "x", "max_output_tokens": 200,
                 "tools": [{"type": "function", **one["function"]} for one in tools],
                 "tool_choice": {"type": "allowed_tools", "mode": "required",
                                 "tools": [{"type": "function", "name": "clock"}]}}  # fmt: skip
    items = own.post("/v1/responses", responses).json["output"]
    assert {one["name"] for one in items if one["type"] == "function_call"} <= {"clock"}
    subset["tools"] = [{"type": "function", "function": {"name": "nobody"}}]
    refused = own.post("/v1/chat/completions", body)
    assert refused.status == 400
    assert "'nobody'" in refused.json["error"]["message"]
    assert refused.json["error"]["param"] == "tool_choice"


# --- what was thought ------------------------------------------------------------------------


def test_tokens_of_the_thinking_are_counted(own: Server) -> None:
    body = {"model": "thinker", "messages": USER, "temperature": 0}
    found = own.post("/v1/chat/completions", body).json
    message = found["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("ab", "cd")
    # each character of ab</think>cd is a token, and the end is one
    assert found["usage"]["completion_tokens"] == 13
    assert found["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    streamed = own.post(
        "/v1/chat/completions", body | {"stream": True, "stream_options": {"include_usage": True}}
    ).events
    assert streamed[-2]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    response = own.post("/v1/responses", {"model": "thinker", "input": "x", "temperature": 0}).json
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    cut = own.post("/v1/responses", {"model": "thinker", "input": "x", "max_output_tokens": 2}).json
    assert cut["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}


# --- responses -------------------------------------------------------------------------------


def test_an_item_that_was_cut_off_says_so(server: Server) -> None:
    body = {"model": "hi", "input": "x", "temperature": 0, "max_output_tokens": 2}
    assert [one["status"] for one in server.post("/v1/responses", body).json["output"]] == [
        "incomplete"
    ]
    events = server.post("/v1/responses", body | {"stream": True}).events
    done = next(one for one in events if one["type"] == "response.output_item.done")
    assert done["item"]["status"] == "incomplete"
    whole = server.post("/v1/responses", body | {"max_output_tokens": 20}).json
    assert [one["status"] for one in whole["output"]] == ["completed"]


def test_logprobs_of_a_response(server: Server) -> None:
    body = {"model": "hi", "input": "x", "temperature": 0, "top_logprobs": 2,
            "include": ["message.output_text.logprobs"]}  # fmt: skip
    (item,) = server.post("/v1/responses", body).json["output"]
    check_logprobs(item["content"][0]["logprobs"])
    events = server.post("/v1/responses", body | {"stream": True}).events
    deltas = [one for one in events if one["type"] == "response.output_text.delta"]
    check_logprobs([token for one in deltas for token in one["logprobs"]])
    (done,) = (one for one in events if one["type"] == "response.output_text.done")
    check_logprobs(done["logprobs"])
    plain = server.post("/v1/responses", {"model": "hi", "input": "x"}).json
    assert plain["output"][0]["content"][0]["logprobs"] == []


def check_logprobs(found: list[dict[str, Any]]) -> None:
    """What a chain's tokens have: one is certain, all others are alike."""
    assert "".join(one["token"] for one in found) == HI
    for one in found:
        assert one["logprob"] == pytest.approx(0, abs=1e-6)
        first, second = one["top_logprobs"]
        assert (first["token"], first["logprob"]) == (one["token"], one["logprob"])
        assert second["logprob"] == pytest.approx(BEHIND, abs=0.2)


# --- Ollama ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_ollama_logprobs(server: Server, path: str) -> None:
    asked = {"messages": USER} if path == "/api/chat" else {"prompt": "x"}
    body = {"model": "hi", **asked, "options": {"temperature": 0}, "logprobs": True}
    whole = server.post(path, body | {"stream": False, "top_logprobs": 2}).json
    check_logprobs(whole["logprobs"])
    lines = server.post(path, body).lines
    streamed = [token for one in lines for token in one.get("logprobs", ())]
    assert "".join(one["token"] for one in streamed) == HI
    assert "logprobs" not in server.post(path, body | {"logprobs": False, "stream": False}).json
    assert server.post(path, body | {"top_logprobs": 21}).status == 400


def test_ollama_calls_have_ids_that_go_back(own: Server) -> None:
    call = {"id": "call_7", "function": {"name": "clock", "arguments": {}}}
    messages = [
        {"role": "USER", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_name": "clock", "tool_call_id": "call_7"},
    ]
    body = {"model": "tools", "messages": messages, "stream": False, "options": {"num_predict": 2}}
    assert own.post("/api/chat", body).status == 200


def test_digests_are_long_enough_for_ollamas_own_programs(own: Server) -> None:
    """They cut twelve digits out of each, and fail where there are fewer."""
    for one in own.get("/api/tags").json["models"]:
        assert len(one["digest"]) == 64
        int(one["digest"], 16)


def test_a_bad_preset_is_a_bad_request(own: Server) -> None:
    body = {"model": "warm", "from": "thinker", "parameters": {"temperature": "hot"}}
    refused = own.post("/api/create", body | {"stream": False})
    assert refused.status == 400
    assert "temperature" in refused.json["error"]
    streamed = own.post("/api/create", body)
    assert streamed.status == 200
    assert streamed.lines[-1] == refused.json


def test_the_operators_names_are_not_removed(own: Server) -> None:
    """Behind one is a model that nobody asked to remove, or a file of the operator's."""
    thinker = next((own.home / "models").rglob("thinker.gguf"))
    for name in ("sql", "mine"):
        refused = own.ask("DELETE", "/api/delete", {"model": name})
        assert refused.status == 400
        assert "/" not in refused.json["error"]
    assert thinker.exists()
    assert {one["name"] for one in own.get("/api/tags").json["models"]} >= {
        "thinker",
        "sql",
        "mine",
    }


# --- several prompts -------------------------------------------------------------------------


def test_several_prompts_in_one_stream(server: Server) -> None:
    body = {"model": "hi", "prompt": ["x\n", "Hi", "y\n"], "n": 2, "temperature": 0,
            "max_tokens": 20, "echo": True}  # fmt: skip
    whole = server.post("/v1/completions", body).json
    texts = ["x\n" + HI] * 2 + [HI] * 2 + ["y\n" + HI] * 2  # a chain goes on after "Hi"
    assert [one["text"] for one in whole["choices"]] == texts
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, end = server.post("/v1/completions", body | options).events
    assert end is None
    for i, text in enumerate(texts):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == i]
        assert "".join(one["text"] for one in mine) == text
        assert [one["finish_reason"] for one in mine if one["finish_reason"]] == ["stop"]
    assert all(chunk["usage"] is None for chunk in chunks)
    usage = {name: last["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
    assert usage == {name: whole["usage"][name] for name in usage}


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "messages[0].content[0]"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
    ],
)  # fmt: skip
def test_the_part_that_is_wrong_is_named(server: Server, more: Any, param: str) -> None:
    body = {"model": "hi", "messages": USER} | more
    refused = server.post("/v1/chat/completions", body)
    assert (refused.status, refused.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize("name", ["self", "messages", "add_generation_prompt", "bos_token"])
def test_what_templates_are_handed_breaks_nothing(server: Server, name: str) -> None:
    body = {"model": "hi", "messages": USER, "chat_template_kwargs": {name: 1}}
    assert server.post("/v1/chat/completions", body).status in (200, 400)


def test_the_files_of_this_test_end_nowhere(own: Server, tmp_path: Path) -> None:
    """A preset's text goes through a file of the server's own, which is gone afterwards."""
    body = {"model": "kind", "from": "thinker", "system": "Be kind.", "stream": False}
    assert own.post("/api/create", body).json == {"status": "success"}
    shown = own.post("/api/show", {"model": "kind"}).json
    assert shown["system"] == "Be kind."
    assert json.dumps(shown).count("/tmp") == 0


@pytest.mark.parametrize(
    "grammar", ['root ::= ("a"?){1000}', 'root ::= ("a"|"a")* "!"', "root ::= " + '"a"? ' * 30]
)
def test_a_grammar_of_many_ways_is_followed_all_the_same(server: Server, grammar: str) -> None:
    """llama.cpp would follow 41 billion ways through the text aaaa, in one call for everyone."""
    for path, asked in (("/v1/chat/completions", {"messages": USER}),
                        ("/v1/completions", {"prompt": "x"})):  # fmt: skip
        body = {"model": "tiny", **asked, "grammar": grammar, "max_tokens": 8}
        found = server.post(path, body)
        assert found.status == 200
        choice = found.json["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        assert set(text) <= {"a", "!"}


def test_a_prompt_is_echoed_with_its_logprobs(server: Server) -> None:
    """What lm-evaluation-harness asks of `local-completions`: tokens, several at once. It sums
    token_logprobs[n_context:-1] and compares each with the best of its top_logprobs."""
    prompts = [[ord(c) for c in "hello you"], [ord(c) for c in "ab"], [7]]
    body = {"model": "tiny", "prompt": prompts, "max_tokens": 1, "logprobs": 1, "seed": 1234,
            "echo": True, "temperature": 0}  # fmt: skip
    found = server.post("/v1/completions", body).json
    assert found["usage"]["prompt_tokens"] == 12
    for prompt, choice in zip(prompts, found["choices"], strict=True):
        told = choice["logprobs"]
        assert [len(told[name]) for name in told] == [len(prompt) + 1] * 4
        assert told["token_logprobs"][0] is None
        assert told["top_logprobs"][0] is None
        for value, top in zip(told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True):
            assert value <= max(top.values()) <= 0
        n = len(prompt)
        assert choice["text"].startswith("".join(told["tokens"][:n]))
        assert told["text_offset"][:n] == list(range(n))
    alone = {**body, "prompt": prompts[0], "max_tokens": 0}
    again = server.post("/v1/completions", alone).json["choices"][0]
    first = found["choices"][0]["logprobs"]
    assert again["text"] == "hello you"
    assert again["finish_reason"] == "length"
    assert again["logprobs"]["token_logprobs"][1:] == pytest.approx(
        first["token_logprobs"][1:9], abs=2e-2
    )


def test_an_echo_with_logprobs_streams(server: Server) -> None:
    """The text's own tokens: a BOS that the vocabulary puts in front is none of them."""
    body = {"model": "hi", "prompt": "x\n", "logprobs": 1, "echo": True, "temperature": 0}
    whole = server.post("/v1/completions", body).json["choices"][0]
    events = server.post("/v1/completions", {**body, "stream": True}).events
    choices = [event["choices"][0] for event in events[:-1]]
    assert "".join(choice["text"] for choice in choices) == whole["text"] == "x\nHi, you!"
    for name in ("tokens", "text_offset"):
        told = [c["logprobs"] for c in choices if c["logprobs"]]
        assert [value for one in told for value in one[name]] == whole["logprobs"][name]
    assert whole["logprobs"]["tokens"][:10] == list("x\nHi, you!")
    assert whole["logprobs"]["text_offset"][:10] == list(range(10))
    assert len(whole["logprobs"]["tokens"]) == 11  # the end that the model chose, too
    refused = server.post("/v1/completions", {**body, "suffix": "y"})
    assert refused.status == 400
