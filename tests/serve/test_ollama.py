"""Ollama's API."""

from __future__ import annotations

import json
import math

import pytest

from localllm import __version__
from tests.serve.conftest import HI, Server

USER = [{"role": "user", "content": "hello"}]
TIMES = {"total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration",
         "eval_count", "eval_duration"}  # fmt: skip


def test_chat_streams_lines(server: Server) -> None:
    body = {"model": "hi", "messages": USER, "options": {"temperature": 0}}
    done = server.post("/api/chat", body)
    assert done.headers["content-type"] == "application/x-ndjson"
    *lines, last = done.lines
    assert "".join(one["message"]["content"] for one in lines) == HI
    assert all(not one["done"] for one in lines)
    assert last["done"] and last["done_reason"] == "stop"
    assert set(last) >= TIMES
    assert last["eval_count"] == len(HI) + 1
    assert 0 < last["eval_duration"] < last["total_duration"] < 60e9


def test_chat_at_once(server: Server) -> None:
    body = {"model": "hi:latest", "messages": USER, "stream": False}
    found = server.post("/api/chat", body | {"options": {"num_predict": 2}}).json
    assert found["message"] == {"role": "assistant", "content": "Hi"}
    assert found["done_reason"] == "length"
    assert found["model"] == "hi:latest"
    assert set(found) >= TIMES


def test_generate_with_and_without_template(server: Server) -> None:
    body = {"model": "hi", "prompt": "hello", "options": {"temperature": 0}}
    lines = server.post("/api/generate", body).lines
    assert "".join(one["response"] for one in lines) == HI
    raw = server.post("/api/generate", body | {"raw": True, "prompt": "x\nH", "stream": False})
    assert raw.json["response"] == HI[1:]
    assert set(raw.json) >= TIMES


def test_format_is_enforced(server: Server) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    body = {"model": "tiny", "messages": USER, "stream": False, "format": schema,
            "options": {"num_predict": 200, "temperature": 0}}  # fmt: skip
    text = server.post("/api/chat", body).json["message"]["content"]
    assert isinstance(json.loads(text)["ok"], bool)


def test_embed(server: Server) -> None:
    found = server.post("/api/embed", {"model": "bert", "input": ["hello", "world"]}).json
    assert len(found["embeddings"]) == 2
    assert all(math.isclose(sum(x * x for x in v), 1, abs_tol=1e-5) for v in found["embeddings"])
    assert found["prompt_eval_count"] > 0
    one = server.post("/api/embeddings", {"model": "bert", "prompt": "hello"}).json["embedding"]
    norm = math.sqrt(sum(x * x for x in one))
    assert [x / norm for x in one] == pytest.approx(found["embeddings"][0], abs=1e-4)


def test_a_long_text_is_cut_only_if_it_may_be(server: Server) -> None:
    body = {"model": "bert", "input": "hello " * 900}
    assert server.post("/api/embed", body).status == 200
    done = server.post("/api/embed", body | {"truncate": False})
    assert done.status == 400
    assert "tokens" in done.json["error"]


def test_tags_show_ps_version(server: Server) -> None:
    tags = server.get("/api/tags").json["models"]
    assert {one["name"] for one in tags} == {"tiny", "tools", "hi", "loop", "bert"}
    assert all(len(one["digest"]) == 64 for one in tags)
    shown = server.post("/api/show", {"model": "tiny"}).json
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["tokenizer.ggml.tokens"] is None
    assert shown["capabilities"] == ["completion"]
    assert server.post("/api/show", {"name": "bert"}).json["capabilities"] == ["embedding"]
    server.post("/api/generate", {"model": "tiny"})
    loaded = {one["name"]: one for one in server.get("/api/ps").json["models"]}
    assert loaded["tiny"]["context_length"] == 512
    assert loaded["tiny"]["slots"] == 4
    assert loaded["tiny"]["size"] > 0
    version = server.get("/api/version").json
    # Copilot of VS Code refuses Ollamas before 0.6.4; with logprobs it is one of 0.12
    assert tuple(map(int, version["version"].split("."))) >= (0, 12)
    assert version["localllm"] == __version__


def test_loading_and_unloading(server: Server) -> None:
    found = server.post("/api/generate", {"model": "loop", "keep_alive": "10m"}).json
    assert (found["response"], found["done_reason"]) == ("", "load")
    assert "loop" in {one["name"] for one in server.get("/api/ps").json["models"]}
    found = server.post("/api/chat", {"model": "loop", "messages": [], "keep_alive": 0}).json
    assert found["done_reason"] == "unload"
    server.wait(lambda: "loop" not in {one["name"] for one in server.get("/api/ps").json["models"]})


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chat", {"model": "nothing", "messages": USER}, 404),
        ("/api/chat", {"model": "hi", "messages": USER, "options": {"top_p": 2}}, 400),
        ("/api/chat", {"model": "hi", "messages": [{"role": "user", "images": ["?"]}]}, 400),
        ("/api/chat", {"model": "hi", "messages": USER, "keep_alive": "soon"}, 400),
        ("/api/chat", {"messages": USER}, 400),
        ("/api/generate", {"model": "hi", "prompt": "x", "suffix": "y"}, 400),
        ("/api/generate", {"model": "hi", "prompt": "x", "format": {"type": "odd"}}, 400),
        ("/api/embed", {"model": "bert", "input": 7}, 400),
        ("/api/show", {"model": ""}, 404),
        ("/api/pull", {"model": "file:/etc/passwd"}, 400),
        ("/api/pull", {"model": "./x.gguf"}, 400),
        ("/api/pull", {"model": "https://127.0.0.1:1/x.gguf"}, 400),
        ("/api/pull", {"model": "ollama:127.0.0.1:5000/a/b"}, 400),
        ("/api/delete", {"model": "nothing"}, 405),
        ("/api/blobs/sha256:00", {"any": "thing"}, 400),
        ("/api/push", {"model": "hi"}, 400),
        ("/api/copy", {"source": "nothing", "destination": "x"}, 404),
        ("/api/copy", {"source": "hi", "destination": "../x"}, 400),
    ],
)
def test_errors_have_ollamas_shape(
    server: Server, path: str, body: dict[str, object], status: int
) -> None:
    done = server.post(path, body)
    assert done.status == status, done.body
    assert list(done.json) == ["error"]
    assert isinstance(done.json["error"], str)


def test_durations_as_go_writes_them() -> None:
    from localllm.serve.ollama.words import seconds

    table = {"5m": 300.0, "1h30m": 5400.0, "90": 90.0, "250ms": 0.25, "0": 0.0, "1.5s": 1.5}
    assert {text: seconds(text) for text in table} == table
    assert seconds(-1) == seconds("-1") == seconds("-1m") == math.inf
    assert seconds(None) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(268_098_176, "268.10M"), (7_615_616_512, "7.6B"), (7 * 10**9, "7B"), (5 * 10**6, "5M"),
     (43_210, "43K"), (999, "999")],
)  # fmt: skip
def test_sizes_are_written_as_ollama_does(count: int, text: str) -> None:
    from localllm.serve.ollama.words import parameter_size

    assert parameter_size(count) == text
