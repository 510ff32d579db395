"""serve with endpoints behind names: a localllm of its own behind one, hostile servers behind
others."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localllm.registry import Registry
from localllm.registry.endpoints import Endpoints
from tests.serve.conftest import HI, Server, start
from tests.support.openai_server import (
    DONE,
    SSE,
    Asked,
    OpenAIServer,
    answer,
    chunk,
    event,
    stream,
    usage,
)

HELLO = [{"role": "user", "content": "hello"}]
SECRET = "sk-very-secret-4711"


def put(home: Path, name: str, url: str, **more: Any) -> None:
    data = {"url": url, "model": name, "kind": "openai", **more}
    Endpoints.of(Registry(home)).add(name, data, replace=True)


@pytest.fixture(scope="module")
def behind() -> Iterator[OpenAIServer]:
    """What stands behind the endpoint `odd`: it does what a test gives it to do."""
    with OpenAIServer(answer({}, "500 No")) as server:
        yield server


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, session_server: Server, behind: OpenAIServer
) -> Iterator[Server]:
    """A server of nothing but endpoints, most of them models of the session's server."""
    home = tmp_path_factory.mktemp("far") / "home"
    for name in ("hi", "tools", "loop", "bert"):
        put(home, name, f"{session_server.url}/v1", kind="localllm")
    put(home, "odd", behind.url, timeout_s=1.0, key={"env": "FAR_KEY"})
    server = start(home, "--api-key", "front-door-key", env={"FAR_KEY": SECRET})
    yield server
    status, _ = server.stop()
    assert status == 0


def post(front: Server, path: str, body: Any, **more: Any) -> Any:
    return front.post(path, body, Authorization="Bearer front-door-key", **more)


def chat(front: Server, model: str, **more: Any) -> Any:
    return post(front, "/v1/chat/completions", {"model": model, "messages": HELLO, **more})


def test_listed_by_both_apis(front: Server) -> None:
    headers = {"Authorization": "Bearer front-door-key"}
    models = front.get("/v1/models", **headers).json["data"]
    assert {"hi", "tools"} <= {one["id"] for one in models}
    assert front.get("/v1/models/hi", **headers).json["owned_by"] == "endpoint"
    tags = front.get("/api/tags", **headers).json["models"]
    assert "hi" in {one["name"] for one in tags}
    assert {len(one["digest"]) for one in tags} == {64}
    shown = post(front, "/api/show", {"model": "hi"}).json
    assert "127.0.0.1" not in json.dumps([models, tags, shown])


def test_whole_and_streamed_answers_are_the_same(front: Server) -> None:
    whole = chat(front, "hi").json
    assert whole["choices"][0]["message"]["content"] == HI
    assert whole["model"] == "hi"
    streamed = chat(front, "hi", stream=True, stream_options={"include_usage": True}).events
    assert streamed[-1] is None
    text = "".join(c["delta"].get("content") or "" for one in streamed[:-1] for c in one["choices"])
    assert text == HI
    counts = [(one["prompt_tokens"], one["completion_tokens"])
              for one in (whole["usage"], streamed[-2]["usage"])]  # fmt: skip
    assert counts[0] == counts[1]
    assert min(counts[0]) > 0


def test_every_way_to_ask(front: Server) -> None:
    lines = post(front, "/api/chat", {"model": "hi:latest", "messages": HELLO}).lines
    assert "".join(one["message"]["content"] for one in lines) == HI
    assert lines[-1]["eval_count"] > 0
    made = post(front, "/api/generate", {"model": "hi", "prompt": "x", "stream": False}).json
    assert made["response"] == HI
    found = post(front, "/v1/responses", {"model": "hi", "input": "x"}).json
    assert found["output"][0]["content"][0]["text"] == HI
    text = post(front, "/v1/completions", {"model": "loop", "prompt": "a", "max_tokens": 4}).json
    assert text["choices"][0]["text"] == "bcab"
    rows = post(front, "/v1/embeddings", {"model": "bert", "input": ["a", "b"]}).json["data"]
    assert [one["index"] for one in rows] == [0, 1]
    assert post(front, "/api/chat", {"model": "hi"}).json["done_reason"] == "load"


def test_samples_schemas_and_calls(front: Server) -> None:
    two = chat(front, "hi", n=2).json["choices"]
    assert [one["message"]["content"] for one in two] == [HI, HI]
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    made = chat(front, "tools", response_format=wanted, max_tokens=200, seed=1).json["choices"][0]
    assert json.loads(made["message"]["content"])["a"] in (True, False)
    tool = {"type": "function", "function": {"name": "now", "parameters": schema}}
    called = chat(front, "tools", tools=[tool], tool_choice="required", max_tokens=400, seed=1).json
    message = called["choices"][0]["message"]
    assert called["choices"][0]["finish_reason"] == "tool_calls"
    assert message["tool_calls"][0]["function"]["name"] == "now"


def test_what_is_not_given_on_is_refused(front: Server) -> None:
    refused = chat(front, "hi", logprobs=True)
    assert refused.status == 400
    assert "elsewhere" in refused.json["error"]["message"]
    assert post(front, "/v1/chat/completions", {"model": "hii", "messages": HELLO}).status == 404


def test_keys_stay_on_their_side(front: Server, behind: OpenAIServer) -> None:
    behind.script = stream(chunk("a", finish="stop"), usage(1, 1), DONE)
    found = chat(front, "odd", user="client-7")
    assert found.status == 200
    sent = behind.asked[-1]
    assert sent.headers["authorization"] == f"Bearer {SECRET}"
    assert "front-door-key" not in str(sent.headers) + sent.body.decode()
    assert SECRET not in str(found.headers) + found.body.decode()


WRONG = [
    ("401", answer({"error": {"message": f"bad {SECRET}"}}, "401 No"), 502),
    ("429", answer({"error": {"message": "slow"}}, "429 No", {"Retry-After": "77"}), 503),
    ("500", answer({"error": {"message": "boom"}}, "500 No"), 502),
    ("400", answer({"error": {"message": "odd"}}, "400 No"), 400),
    ("too long", answer({"error": {"message": "m", "code": "context_length_exceeded"}}, "400 N"),
     400),
    ("404", answer({"error": {"message": "gone"}}, "404 No"), 502),
    ("hangs", lambda connection, asked: time.sleep(3), 504),
    ("closes", lambda connection, asked: None, 502),
]  # fmt: skip


@pytest.mark.parametrize(("script", "status"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_bad_server_is_a_status(
    front: Server, behind: OpenAIServer, script: Any, status: int
) -> None:
    behind.script = script
    found = chat(front, "odd", stream=True)
    assert found.status == status
    assert post(front, "/api/chat", {"model": "odd", "messages": HELLO}).status == status
    assert set(found.json["error"]) == {"message", "type", "param", "code"}
    everything = str(found.headers) + found.body.decode()
    assert SECRET not in everything
    assert "FAR_KEY" not in everything
    assert str(behind.port) not in everything
    if status == 503:
        assert found.headers["retry-after"] == "77"


def test_an_error_in_the_middle_of_a_stream(front: Server, behind: OpenAIServer) -> None:
    behind.script = stream(chunk("a"), event({"error": {"message": "out of memory"}}))
    streamed = chat(front, "odd", stream=True)
    assert streamed.status == 200
    assert "out of memory" in streamed.events[-1]["error"]["message"]
    assert chat(front, "odd").status == 502


def test_a_client_that_leaves_closes_the_connection(front: Server, behind: OpenAIServer) -> None:
    def script(connection: socket.socket, asked: Asked) -> None:
        connection.sendall(SSE + b"\r\n" + chunk("a"))
        behind.until_gone(connection)

    behind.script = script
    behind.gone.clear()
    client = http.client.HTTPConnection("127.0.0.1", front.port, timeout=20)
    body = json.dumps({"model": "odd", "messages": HELLO, "stream": True})
    client.request("POST", "/v1/chat/completions", body,
                   {"Authorization": "Bearer front-door-key"})  # fmt: skip
    said = client.getresponse()
    assert said.status == 200
    assert not behind.gone.is_set()
    client.sock.shutdown(socket.SHUT_RDWR)
    client.close()
    assert behind.gone.wait(10)


def test_many_streams_and_no_thread_more(front: Server, behind: OpenAIServer) -> None:
    together = threading.Barrier(40, timeout=30)

    def script(connection: socket.socket, asked: Asked) -> None:
        connection.sendall(SSE + b"\r\n" + chunk("a"))
        together.wait()
        connection.sendall(chunk("b", finish="stop") + usage(1, 2) + DONE)

    def one() -> None:
        events = chat(front, "odd", stream=True).events
        found.append("".join(c["delta"].get("content") or "" for e in events[:-1] if e
                             for c in e["choices"]))  # fmt: skip

    found: list[str] = []
    behind.script = script
    threads_before = _threads(front)
    clients = [threading.Thread(target=one) for _ in range(40)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    assert found == ["ab"] * 40
    assert _threads(front) <= threads_before + 8  # the workers that look names up


def _threads(server: Server) -> int:
    import psutil

    return int(psutil.Process(server.process.pid).num_threads())


def test_names_of_the_operator(tmp_path: Path, session_server: Server) -> None:
    home = tmp_path / "home"
    put(home, "hi", f"{session_server.url}/v1", kind="localllm")
    put(home, "loop", f"{session_server.url}/v1", kind="localllm")
    server = start(home, "hi", "--alias", "gpt=hi", "--only")
    try:
        names = {one["id"] for one in server.get("/v1/models").json["data"]}
        assert names == {"hi", "gpt"}
        body = {"model": "gpt", "messages": HELLO}
        assert server.post("/v1/chat/completions", body).json["model"] == "gpt"
        assert server.post("/v1/chat/completions", {**body, "model": "loop"}).status == 404
    finally:
        server.stop()
    shutil.rmtree(home)
