"""OpenAI's API, byte for byte as it is documented."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest

from tests.serve.conftest import HI, Server

USER = [{"role": "user", "content": "hello"}]


def chat(server: Server, **more: Any) -> Any:
    body = {"model": "hi", "messages": USER, "temperature": 0, **more}
    return server.post("/v1/chat/completions", body)


def test_a_chat_completion(server: Server) -> None:
    found = chat(server).json
    assert found["object"] == "chat.completion"
    assert found["model"] == "hi"
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": HI, "refusal": None}
    assert choice["finish_reason"] == "stop"
    usage = found["usage"]
    assert usage["completion_tokens"] == len(HI) + 1  # and the token that ended it
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream_says_the_same(server: Server) -> None:
    done = chat(server, stream=True, stream_options={"include_usage": True})
    assert done.headers["content-type"].startswith("text/event-stream")
    *chunks, last, end = done.events
    assert end is None
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == HI
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(c["usage"] is None for c in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(HI) + 1
    assert len({c["id"] for c in chunks}) == 1


def test_stop_max_tokens_and_what_they_say(server: Server) -> None:
    cut = chat(server, stop=[","]).json["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("Hi", "stop")
    short = chat(server, max_completion_tokens=2).json["choices"][0]
    assert (short["message"]["content"], short["finish_reason"]) == ("Hi", "length")


def test_logit_bias_forbids_a_token(server: Server) -> None:
    found = chat(server, logit_bias={str(ord("i")): -100}, max_tokens=2).json
    assert found["choices"][0]["message"]["content"][0] == "H"
    assert found["choices"][0]["message"]["content"] != "Hi"


def test_n_samples_and_a_seed(server: Server) -> None:
    body = {"model": "tiny", "messages": USER, "n": 3, "seed": 7, "max_tokens": 6,
            "temperature": 1.5}  # fmt: skip
    first = server.post("/v1/chat/completions", body).json
    again = server.post("/v1/chat/completions", body).json
    texts = [c["message"]["content"] for c in first["choices"]]
    assert [c["index"] for c in first["choices"]] == [0, 1, 2]
    assert texts == [c["message"]["content"] for c in again["choices"]]
    assert len(set(texts)) > 1
    assert first["usage"]["completion_tokens"] == 18


def test_logprobs_are_those_of_the_model(server: Server) -> None:
    found = chat(server, logprobs=True, top_logprobs=2).json["choices"][0]["logprobs"]["content"]
    assert "".join(one["token"] for one in found) == HI
    for one in found:
        assert bytes(one["bytes"]).decode() == one["token"]
        assert math.exp(one["logprob"]) > 0.99
        assert one["top_logprobs"][0]["token"] == one["token"]
        assert len(one["top_logprobs"]) == 2
    streamed = chat(server, logprobs=True, stream=True).events
    entries = [
        e for c in streamed[:-1] if (lp := c["choices"][0]["logprobs"]) for e in lp["content"]
    ]
    assert "".join(e["token"] for e in entries) == HI
    assert all(e["top_logprobs"] == [] for e in entries)


def test_json_schema_is_enforced(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Kyoto", "Oslo"]}, "n": {"type": "integer"}},
        "required": ["city", "n"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    body = {"model": "tiny", "messages": USER, "response_format": wanted, "max_tokens": 200,
            "temperature": 0}  # fmt: skip
    text = server.post("/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    found = json.loads(text)
    assert found["city"] in ("Kyoto", "Oslo")
    assert isinstance(found["n"], int)


def test_completions(server: Server) -> None:
    body = {"model": "hi", "prompt": "x\n", "temperature": 0}
    found = server.post("/v1/completions", body).json
    assert found["object"] == "text_completion"
    assert found["choices"][0]["text"] == HI
    many = server.post("/v1/completions", body | {"prompt": ["a\n", "b\nH"], "echo": True}).json
    assert [c["text"] for c in many["choices"]] == ["a\n" + HI, "b\n" + HI]
    assert [c["index"] for c in many["choices"]] == [0, 1]
    tokens = server.post("/v1/completions", body | {"prompt": [ord("x"), 10]}).json
    assert tokens["choices"][0]["text"] == HI


def test_completion_logprobs(server: Server) -> None:
    body = {"model": "hi", "prompt": "x\n", "temperature": 0, "logprobs": 1}
    found = server.post("/v1/completions", body).json["choices"][0]["logprobs"]
    assert found["tokens"] == list(HI)
    assert found["text_offset"] == list(range(len(HI)))
    assert [list(top) for top in found["top_logprobs"]] == [[c] for c in HI]
    stream = server.post("/v1/completions", body | {"stream": True}).events
    parts = [c["choices"][0]["logprobs"] for c in stream[:-1]]
    assert [t for p in parts if p for t in p["tokens"]] == list(HI)
    assert [o for p in parts if p for o in p["text_offset"]] == list(range(len(HI)))


def test_embeddings_float_base64_and_fewer_dimensions(server: Server) -> None:
    body = {"model": "bert", "input": ["hello world", "the cat"]}
    found = server.post("/v1/embeddings", body).json
    rows = [one["embedding"] for one in found["data"]]
    assert [one["index"] for one in found["data"]] == [0, 1]
    assert all(math.isclose(sum(x * x for x in row), 1, abs_tol=1e-5) for row in rows)
    packed = server.post("/v1/embeddings", body | {"encoding_format": "base64"}).json
    for row, one in zip(rows, packed["data"], strict=True):
        raw = base64.b64decode(one["embedding"])
        assert struct.unpack(f"<{len(row)}f", raw) == pytest.approx(row, abs=1e-7)
    short = server.post("/v1/embeddings", body | {"dimensions": 8}).json["data"][0]["embedding"]
    norm = math.sqrt(sum(x * x for x in rows[0][:8]))
    assert short == pytest.approx([x / norm for x in rows[0][:8]], abs=1e-5)
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 0


def test_the_models(server: Server) -> None:
    found = server.get("/v1/models").json
    assert found["object"] == "list"
    assert {one["id"] for one in found["data"]} == {"tiny", "tools", "hi", "loop", "bert"}
    assert server.get("/v1/models/hi").json["object"] == "model"
    assert server.get("/v1/models/nothing").status == 404


BAD: list[tuple[str, dict[str, Any], int, str | None]] = [
    ("/v1/chat/completions", {"model": "hi"}, 400, "messages"),
    ("/v1/chat/completions", {"model": "hi", "messages": []}, 400, "messages"),
    ("/v1/chat/completions", {"model": "hi", "messages": USER, "temperature": "hot"}, 400,
     "temperature"),
    ("/v1/chat/completions", {"model": "hi", "messages": USER, "temperature": 3}, 400,
     "temperature"),
    ("/v1/chat/completions", {"model": "hi", "messages": [{"role": "robot", "content": "x"}]},
     400, "messages[0].role"),
    ("/v1/chat/completions", {"model": "hi", "messages": USER, "logit_bias": {"x": 1}}, 400,
     "logit_bias"),
    ("/v1/chat/completions", {"model": "hi", "messages": USER, "top_logprobs": 3}, 400,
     "top_logprobs"),
    ("/v1/chat/completions", {"model": "hi", "messages": USER, "n": 0}, 400, "n"),
    ("/v1/chat/completions", {"model": "hi", "messages": USER, "n": 99}, 400, None),
    ("/v1/chat/completions", {"model": "hi", "messages": USER, "functions": [{}]}, 400,
     "functions"),
    ("/v1/chat/completions", {"model": "hi", "messages": USER, "grammar": "root ::= ("}, 400,
     None),
    ("/v1/chat/completions", {"model": "hi", "messages": USER, "tool_choice": "required"}, 400,
     "tool_choice"),
    ("/v1/chat/completions",
     {"model": "hi", "messages": [{"role": "user", "content": [
         {"type": "image_url", "image_url": {"url": "http://169.254.169.254/x.png"}}]}]},
     400, "messages[0].content[0]"),
    ("/v1/chat/completions",
     {"model": "hi", "messages": USER, "response_format": {"type": "json_schema", "json_schema":
      {"name": "x", "schema": {"type": "nothing"}}}}, 400, "response_format"),
    ("/v1/chat/completions", {"model": "bert", "messages": USER}, 400, None),
    ("/v1/completions", {"model": "hi", "prompt": "x", "suffix": "y"}, 400, "suffix"),
    ("/v1/completions", {"model": "hi", "prompt": []}, 400, "prompt"),
    ("/v1/completions", {"model": "hi", "prompt": [99999999]}, 400, None),
    ("/v1/embeddings", {"model": "bert", "input": []}, 400, "input"),
    ("/v1/embeddings", {"model": "bert", "input": [""], "dimensions": 9999}, 400, "dimensions"),
    ("/v1/responses", {"model": "hi", "input": "x", "background": True}, 400, "background"),
    ("/v1/responses", {"model": "hi", "input": "x", "previous_response_id": "resp_0"}, 404,
     "previous_response_id"),
    ("/v1/responses", {"model": "hi", "input": "x", "text": {"format": {
        "type": "json_schema", "name": "x", "schema": {"$ref": "#/none"}}}}, 400, "text.format"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_cannot_be_answered(server: Server, number: int) -> None:
    path, body, status, param = BAD[number]
    done = server.post(path, body)
    assert done.status == status, done.body
    error = done.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b'{"model": "\xff"}', b'{"model": "\\ud800", "messages": []}',
     b"[" * 100_000, b'{"model": NaN}'],
)  # fmt: skip
def test_what_is_no_json(server: Server, raw: bytes) -> None:
    done = server.post("/v1/chat/completions", raw)
    assert done.status == 400, done.body
    assert done.json["error"]["message"]


def test_an_unknown_model_has_near_ones(server: Server) -> None:
    done = chat(server, model="tinny")
    assert done.status == 404
    assert done.json["error"]["code"] == "model_not_found"
    assert "tiny" in done.json["error"]["message"]


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "file:/etc/passwd", "./tiny.gguf", "~/x.gguf", "a\x00b",
     "C:\\x.gguf", "x" * 9999],
)  # fmt: skip
def test_no_name_is_a_path(server: Server, name: str) -> None:
    done = chat(server, model=name)
    assert done.status == 404, done.body
    assert server.post("/api/show", {"model": name}).status == 404


@pytest.mark.parametrize(
    ("path", "param", "prompt"),
    [
        ("/v1/chat/completions", "messages", [{"role": "user", "content": "word " * 600}]),
        ("/v1/completions", "prompt", "word " * 600),
        ("/v1/responses", "input", "word " * 600),
    ],
)
def test_an_overlong_prompt_is_said(server: Server, path: str, param: str, prompt: Any) -> None:
    done = server.post(path, {"model": "tiny", param: prompt})
    assert done.status == 400
    assert done.json["error"]["code"] == "context_length_exceeded"
    assert done.json["error"]["param"] == param
    assert "512" in done.json["error"]["message"]


def test_the_context_of_one_conversation_is_its_own(server: Server) -> None:
    """The cache is shared by four slots of 512: nobody gets more than 512 of it."""
    done = chat(server, model="loop", max_tokens=5000)
    usage = done.json["usage"]
    assert usage["total_tokens"] == 512
    assert done.json["choices"][0]["finish_reason"] == "length"


def test_unknown_paths_and_methods(server: Server) -> None:
    assert server.get("/v1/nothing").status == 404
    assert server.get("/v1/nothing").json["error"]["message"]
    assert server.get("/v1/chat/completions").status == 405
    assert server.get("/api/nothing").json == {"error": "GET /api/nothing: Not Found"}
