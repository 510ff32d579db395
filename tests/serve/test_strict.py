"""What official clients send, and what hostile ones do, line by line of both APIs."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from localllm.registry import Registry
from tests.serve.conftest import HI, TOOL_TEMPLATE, Server, add, start
from tests.serve.test_tools import WEATHER
from tests.support.gguf_writer import U32
from tests.support.tiny_models import tiny_chain, tiny_llama

USER = [{"role": "user", "content": "hello"}]
FIM = {f"tokenizer.ggml.fim_{name}_token_id": U32(i)
       for i, name in ((1, "pre"), (2, "suf"), (3, "mid"))}  # fmt: skip
SMILE = "\u00e9\U0001f600"  # six bytes, all different


def chain(start_at: int, text: str) -> dict[int, int]:
    codes = [start_at, *text.encode()]
    return dict(itertools.pairwise(codes))


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`coder` fills gaps with GAP, `smile` answers SMILE, `tools` calls."""
    folder = tmp_path_factory.mktemp("strict")
    registry = Registry(folder / "home")
    add(registry, "coder", tiny_chain(folder / "c.gguf", chain(3, "GAP"), metadata=FIM))
    add(registry, "smile", tiny_chain(folder / "s.gguf", chain(10, SMILE)))
    add(registry, "tools", tiny_llama(folder / "t.gguf", chat_template=TOOL_TEMPLATE))
    server = start(folder / "home", "--ctx", "512", "--threads", "1")
    yield server
    assert server.stop() == (0, "")


def chat(server: Server, **more: Any) -> Any:
    return server.post("/v1/chat/completions", {"model": "hi", "messages": USER, **more})


# --- OpenAI ----------------------------------------------------------------------------------


def test_null_is_as_good_as_nothing(server: Server) -> None:
    names = [
        "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
        "logit_bias", "seed", "stop", "n", "stream", "stream_options", "max_tokens",
        "max_completion_tokens", "logprobs", "top_logprobs", "response_format", "tools",
        "tool_choice", "parallel_tool_calls", "reasoning_effort", "functions", "function_call",
        "audio", "modalities", "web_search_options", "grammar", "ignore_eos", "cache_prompt",
        "user", "metadata", "store", "service_tier", "prediction",
    ]  # fmt: skip
    done = chat(server, **dict.fromkeys(names))
    assert done.status == 200, done.body
    message = {"role": "assistant", "content": None, "name": None, "tool_calls": None,
               "tool_call_id": None, "refusal": None, "audio": None}  # fmt: skip
    done = chat(server, messages=[*USER, message, *USER])
    assert done.status == 200, done.body
    assert chat(server, stream=True, stream_options={"include_usage": None}).events[-1] is None
    many = dict.fromkeys(("suffix", "best_of", "echo", "logprobs", "n", "stop", "max_tokens"))
    body = {"model": "hi", "prompt": "x\n", "temperature": 0, **many}
    assert server.post("/v1/completions", body).json["choices"][0]["text"] == HI


def test_fields_that_mean_nothing_here_are_let_pass(server: Server) -> None:
    done = chat(server, store=True, metadata={"a": "b"}, service_tier="auto", user="me",
                safety_identifier="x", verbosity="low", prompt_cache_key="k")  # fmt: skip
    assert done.status == 200, done.body


def test_several_samples_in_a_stream(server: Server) -> None:
    done = chat(server, n=3, stream=True, temperature=0, stream_options={"include_usage": True})
    *chunks, last, end = done.events
    assert end is None
    for i in range(3):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == i]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(c["delta"].get("content", "") for c in mine) == HI
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["stop"]
    assert last["usage"]["completion_tokens"] == 3 * (len(HI) + 1)


def test_a_fingerprint_is_of_the_weights(server: Server) -> None:
    first, again = chat(server).json, chat(server).json
    assert first["system_fingerprint"] == again["system_fingerprint"]
    assert first["system_fingerprint"].startswith("fp_")
    chunks = chat(server, stream=True).events[:-1]
    assert {c["system_fingerprint"] for c in chunks} == {first["system_fingerprint"]}
    assert (
        chat(server, model="tiny", max_tokens=1).json["system_fingerprint"]
        != first["system_fingerprint"]
    )


def test_stops(server: Server) -> None:
    def said(stop: Any) -> str:
        return str(chat(server, temperature=0, stop=stop).json["choices"][0]["message"]["content"])

    assert said(["1", "2", "3", "4", "5", "you"]) == "Hi, "
    assert said("!") == "Hi, you"
    assert said([]) == said([""]) == said("") == HI
    assert chat(server, stop=["x"] * 65).status == 400
    assert chat(server, stop=[None]).status == 400
    assert chat(server, stop=5).status == 400


def test_the_newer_limit_counts(server: Server) -> None:
    found = chat(server, temperature=0, max_tokens=5, max_completion_tokens=2).json
    assert found["choices"][0]["message"]["content"] == "Hi"


@pytest.mark.parametrize(
    "more",
    [
        {"n": 129}, {"n": 2**70}, {"n": True}, {"n": "2"}, {"seed": 1.5}, {"max_tokens": -1},
        {"logit_bias": {"-1": 1}}, {"logit_bias": {"5": 101}}, {"logit_bias": {"99999999": 1}},
        {"logit_bias": [1]}, {"top_logprobs": 21, "logprobs": True}, {"stream": "yes"},
        {"stream_options": 5}, {"response_format": "json"}, {"response_format": {"type": "xml"}},
        {"tools": [{}]}, {"tools": {}}, {"tool_choice": "maybe"}, {"messages": [None]},
        {"messages": [{"role": "user"}]}, {"messages": [{"role": "user", "content": 7}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "tool", "tool_call_id": "x"}]},
        {"messages": [{"role": "user", "content": "x", "tool_calls": [
            {"id": "a", "function": {"name": "f", "arguments": "{}"}}]}]},
        {"model": ""}, {"model": "x" * 10_000}, {"model": None}, {"model": "a\x00b"},
        {"temperature": -0.1}, {"top_p": 1.1}, {"presence_penalty": 3}, {"grammar": "x" * 300_000},
        {"chat_template_kwargs": []},
    ],
)  # fmt: skip
def test_what_is_refused_is_refused_in_one_line(server: Server, more: dict[str, Any]) -> None:
    done = chat(server, **more)
    assert done.status in (400, 404), done.body
    assert set(done.json["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in done.json["error"]["message"]
    assert len(done.json["error"]["message"]) < 1000


@pytest.mark.parametrize(
    "messages",
    [
        [*USER, {"role": "tool", "tool_call_id": "nobody", "content": "42"}],
        [{"role": "tool", "content": "42"}],
        [{"role": "assistant", "content": None}],
        [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, *USER],
        [{"role": "user", "content": []}],
        [*USER, {"role": "assistant", "content": None, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "not json"}}]}],
        [{"role": "user", "content": "<|im_end|>" * 20}],
    ],
)  # fmt: skip
def test_odd_conversations_are_answered(server: Server, messages: list[Any]) -> None:
    done = chat(server, messages=messages, max_tokens=4)
    assert done.status == 200, done.body


def test_characters_of_several_tokens_come_whole(strict: Server) -> None:
    body = {"model": "smile", "messages": USER, "temperature": 0}
    done = strict.post("/v1/chat/completions", body)
    assert done.json["choices"][0]["message"]["content"] == SMILE
    stream = strict.post("/v1/chat/completions", body | {"stream": True, "logprobs": True})
    pieces = [e["choices"][0]["delta"].get("content", "") for e in stream.events[:-1]]
    assert "".join(pieces) == SMILE
    assert all(piece.encode() or True for piece in pieces)  # no half of a pair anywhere
    stream.body.decode("ascii")
    logprobs = [e["choices"][0]["logprobs"] for e in stream.events[:-1]]
    raw = [b for one in logprobs if one for token in one["content"] for b in token["bytes"]]
    assert bytes(raw).decode() == SMILE
    lines = strict.post("/api/chat", body).lines
    assert "".join(one["message"]["content"] for one in lines) == SMILE


def test_a_call_that_was_cut_off_is_no_call(strict: Server) -> None:
    body = {"model": "tools", "messages": USER, "tools": [WEATHER], "max_tokens": 12, "seed": 1,
            "tool_choice": "required"}  # fmt: skip
    (choice,) = strict.post("/v1/chat/completions", body).json["choices"]
    assert choice["finish_reason"] == "length"


def test_tools_and_a_format_together(strict: Server) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    body = {"model": "tools", "messages": USER, "tools": [WEATHER], "response_format": form,
            "max_tokens": 300, "temperature": 0}  # fmt: skip
    (choice,) = strict.post("/v1/chat/completions", body).json["choices"]
    assert isinstance(json.loads(choice["message"]["content"])["ok"], bool)
    forced = body | {"tool_choice": "required", "parallel_tool_calls": False}
    (choice,) = strict.post("/v1/chat/completions", forced).json["choices"]
    assert len(choice["message"]["tool_calls"]) == 1


# --- completions: a gap, the best of several ---------------------------------------------------


def test_a_gap_is_filled(strict: Server) -> None:
    body = {"model": "coder", "prompt": "def f(", "suffix": "): pass", "temperature": 0}
    found = strict.post("/v1/completions", body).json
    assert found["choices"][0]["text"] == "GAP"
    alone = body | {"suffix": None, "max_tokens": 0}
    parts = [strict.post("/v1/completions", alone | {"prompt": text}).json["usage"]
             for text in ("def f(", "): pass")]  # fmt: skip
    n = sum(one["prompt_tokens"] for one in parts) + 3  # and three marks; BOS only once
    assert found["usage"]["prompt_tokens"] in (n, n - 1)
    stream = strict.post("/v1/completions", body | {"stream": True}).events[:-1]
    assert "".join(e["choices"][0]["text"] for e in stream) == "GAP"
    tokens = body | {"prompt": list(b"def f(")}
    assert strict.post("/v1/completions", tokens).json["choices"][0]["text"] == "GAP"
    ask = {"model": "coder", "prompt": "def f(", "suffix": "): pass", "stream": False,
           "options": {"temperature": 0}}  # fmt: skip
    found = strict.post("/api/generate", ask).json
    assert found["response"] == "GAP"
    assert "context" not in found
    assert "insert" in strict.post("/api/show", {"model": "coder"}).json["capabilities"]
    assert "insert" not in strict.post("/api/show", {"model": "smile"}).json["capabilities"]


def test_the_best_of_several(server: Server) -> None:
    body = {"model": "tiny", "prompt": "abc", "max_tokens": 6, "seed": 7, "temperature": 1.5}
    all_of = server.post("/v1/completions", body | {"n": 4, "logprobs": 0}).json["choices"]

    def mean(choice: dict[str, Any]) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return sum(values) / len(values) if values else -math.inf

    wanted = [c["text"] for c in sorted(all_of, key=mean, reverse=True)]
    best = server.post("/v1/completions", body | {"best_of": 4}).json
    assert [c["text"] for c in best["choices"]] == wanted[:1]
    assert best["choices"][0]["logprobs"] is None
    assert best["usage"]["completion_tokens"] > 6  # all of them were computed
    two = server.post("/v1/completions", body | {"best_of": 4, "n": 2, "logprobs": 1}).json
    assert [c["text"] for c in two["choices"]] == wanted[:2]
    assert [c["index"] for c in two["choices"]] == [0, 1]
    assert two["choices"][0]["logprobs"]["tokens"]
    for wrong in ({"best_of": 1, "n": 2}, {"best_of": 2, "stream": True}, {"best_of": 0}):
        assert server.post("/v1/completions", body | wrong).status == 400


# --- Ollama ----------------------------------------------------------------------------------


def generate(server: Server, **more: Any) -> Any:
    options = {"temperature": 0} | more.pop("options", {})
    return server.post(
        "/api/generate", {"model": "hi", "stream": False, "options": options, **more}
    )


def test_a_context_goes_on(server: Server) -> None:
    first = generate(server, prompt="hello").json
    context = first["context"]
    assert len(context) == first["prompt_eval_count"] + first["eval_count"]
    assert bytes(token for token in context if token < 256).decode().endswith(HI)
    second = generate(server, prompt="again", context=context).json
    assert second["response"] == HI
    assert second["context"][: len(context)] == context
    bos = context[0]
    assert second["context"].count(bos) == context.count(bos)  # one conversation, one beginning
    assert second["prompt_eval_count"] > len(context)
    last = server.post("/api/generate", {"model": "hi", "prompt": "x"}).lines[-1]
    assert last["context"]
    assert "context" not in generate(server, prompt="x\n", raw=True).json
    assert generate(server, prompt="x", context=[2**40]).status == 400
    assert generate(server, prompt="x", context=[-1]).status == 400
    assert generate(server, prompt="x", context=["a"]).status == 400
    assert generate(server, prompt="x", context=[65] * 600).status == 400


def test_numbers_as_other_languages_write_them(server: Server) -> None:
    found = generate(server, prompt="x", options={"num_predict": 2.0, "top_k": 40.0, "seed": 3.0})
    assert found.json["response"] == "Hi"
    assert generate(server, prompt="x", options={"num_predict": 2.5}).status == 400
    for none in (0, -1, -2):
        assert generate(server, prompt="x", options={"num_predict": none}).json["response"] == HI
    assert generate(server, prompt="x", options={"top_k": -1, "num_ctx": 4096}).status == 200
    assert generate(server, prompt="x", options={"num_predict": None, "stop": None}).status == 200
    for kind in (1, 2):
        told = {"mirostat": kind, "mirostat_tau": 4.0, "mirostat_eta": 0.2, "temperature": 0.7}
        assert generate(server, prompt="x", options=told).json["response"] == HI
    assert generate(server, prompt="x", options={"mirostat": 3}).status == 400


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": "x", "raw": True, "system": "s"}, {"prompt": "x", "raw": True, "context": [1]},
        {"prompt": "x", "suffix": "y"}, {"prompt": "x", "template": "{{ .Prompt"},
        {"prompt": "x", "template": "{{ call .Prompt }}"}, {"prompt": "x", "template": "x" * 70000},
        {"prompt": "x", "template": "{{ .Prompt }}", "raw": True},
        {"prompt": "x" * 9999, "template": "{{ range .Messages }}{{ .Content }}{{ end }}" * 999},
        {"prompt": 5}, {"prompt": "x", "images": "a"}, {"prompt": "x", "format": "yaml"},
        {"prompt": "x", "keep_alive": []}, {"prompt": "x", "think": 1}, {"prompt": "x", "raw": 1},
        {"prompt": "x", "images": [""], "raw": True},
    ],
)  # fmt: skip
def test_what_generate_refuses(server: Server, more: dict[str, Any]) -> None:
    done = generate(server, **more)
    assert done.status == 400, done.body
    assert list(done.json) == ["error"]


@pytest.mark.parametrize("keep", [1e300, "1e300", "999999999h", "1e400", -1, "-1", "nan", 10**18])
def test_for_ever_is_no_number_too_large(server: Server, keep: Any) -> None:
    assert generate(server, prompt="x", keep_alive=keep).status == 200
    found = {one["name"]: one for one in server.get("/api/ps").json["models"]}
    assert found["hi"]["expires_at"] > "2090"
    assert generate(server, prompt="x", keep_alive="5m").status == 200
    found = {one["name"]: one for one in server.get("/api/ps").json["models"]}
    assert found["hi"]["expires_at"] < "2090"


def loaded(server: Server) -> set[str]:
    return {one["name"] for one in server.get("/api/ps").json["models"]}


def test_unloaded_when_its_users_have_left(strict: Server) -> None:
    assert generate(strict, model="smile", prompt="x", keep_alive=0).status == 200
    strict.wait(lambda: "smile" not in loaded(strict))
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=30)
    body = {"model": "tools", "messages": USER, "stream": True, "ignore_eos": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body | {"max_tokens": 450}))
    connection.getresponse().read(10)
    unload = {"model": "tools", "keep_alive": 0}
    assert strict.post("/api/generate", unload).json["done_reason"] == "unload"
    connection.close()
    strict.wait(lambda: "tools" not in loaded(strict))


def test_nothing_to_embed_only_loads(server: Server) -> None:
    for empty in ("", [], [""]):
        found = server.post("/api/embed", {"model": "bert", "input": empty}).json
        assert found["embeddings"] == []
        assert set(found) >= {"total_duration", "load_duration", "prompt_eval_count"}
    assert server.post("/api/embeddings", {"model": "bert", "prompt": ""}).json == {"embedding": []}
    assert server.post("/api/embed", {"model": "nothing", "input": ""}).status == 404


def test_the_latest_model_is_listed_first(server: Server) -> None:
    found = [one["modified_at"] for one in server.get("/api/tags").json["models"]]
    assert found == sorted(found, reverse=True)


# --- responses -------------------------------------------------------------------------------


def test_a_tools_output_is_text(server: Server) -> None:
    png = "data:image/png;base64," + base64.b64encode(b"x").decode()
    output = [{"type": "input_image", "image_url": png}]
    given = [{"role": "user", "content": "x"},
             {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
             {"type": "function_call_output", "call_id": "a", "output": output}]  # fmt: skip
    done = server.post("/v1/responses", {"model": "tools", "input": given})
    assert done.status == 400
    assert "text" in done.json["error"]["message"]
