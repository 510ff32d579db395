"""A server's beginning and end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Done
from tests.serve.conftest import HI, Reply, Server, start

USER = [{"role": "user", "content": "x"}]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")


def stream(server: Server, found: list[Reply], **more: object) -> threading.Thread:
    body = {"model": "loop", "messages": USER, "stream": True, **more}

    def ask() -> None:
        found.append(server.post("/v1/chat/completions", body))

    thread = threading.Thread(target=ask)
    thread.start()
    server.wait(lambda: server.metric("localllm_running") >= 1)
    return thread


def test_readiness_is_one_document(served_home: Path) -> None:
    server = start(served_home, "hi", "--threads", "1")
    data = server.document["data"]
    assert data["address"] == "127.0.0.1"
    assert data["url"] == f"http://127.0.0.1:{data['port']}"
    assert data["models"] == ["hi"]
    assert data["pid"] == server.process.pid
    assert [one["name"] for one in server.get("/api/ps").json["models"]] == ["hi"]
    assert server.stop(signal.SIGINT) == (0, "")
    assert server.process.stdout is not None


def test_streams_may_end_before_the_server_does(served_home: Path) -> None:
    server = start(served_home, "--ctx", "4000", "--threads", "1", "loop", "--grace", "60")
    found: list[Reply] = []
    thread = stream(server, found, max_tokens=1500)
    assert server.stop()[0] == 0
    thread.join(10)
    assert found[0].events[-1] is None
    assert found[0].events[-2]["choices"][0]["finish_reason"] == "length"


def test_those_that_do_not_are_told(served_home: Path) -> None:
    server = start(served_home, "--ctx", "100000", "--threads", "1", "loop", "--grace", "0.5")
    found: list[Reply] = []
    thread = stream(server, found)
    begun = time.monotonic()
    assert server.stop()[0] == 0
    assert time.monotonic() - begun < 20
    thread.join(10)
    assert found[0].events[-1]["error"]["code"] == "unavailable"


def test_a_second_signal_ends_it_at_once(served_home: Path) -> None:
    server = start(served_home, "--ctx", "100000", "--threads", "1", "loop", "--grace", "100")
    body = json.dumps({"model": "loop", "messages": USER, "stream": True}).encode()
    import socket

    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
        assert client.recv(10)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert server.process.poll() is None
        begun = time.monotonic()
        status, _ = server.stop()
        assert status == 130
        assert time.monotonic() - begun < 10


def test_a_signal_while_loading(served_home: Path) -> None:
    for wait_s in (1.5, 5, 15):
        process = subprocess.Popen(
            [sys.executable, "-m", "localllm", "serve", "--port", "0", "hi", "tiny", "bert"],
            env={**os.environ, "LOCALLLM_HOME": str(served_home)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(wait_s)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        if process.returncode != -signal.SIGINT:  # else Python itself was still starting
            break
    assert process.returncode in (0, 130)
    assert "Traceback" not in said


def test_a_model_that_is_not_there(shell: Callable[..., Done]) -> None:
    done = shell("serve", "--port", "0", "nothing", "--json")
    assert done.exit_code == 3
    assert shell("serve", "--port", "0", "--only", "--json").exit_code == 2
    assert shell("serve", "--port", "0", "--alias", "x", "--json").exit_code == 2


def test_a_file_that_goes_while_it_is_loaded(own_home: Path) -> None:
    server = start(own_home, "--threads", "1", "hi")
    try:
        (path,) = (own_home / "models").rglob("hi.gguf")
        path.unlink()
        ask = {"model": "hi", "messages": USER, "temperature": 0}
        done = server.post("/v1/chat/completions", ask)
        assert done.json["choices"][0]["message"]["content"] == HI
        (other,) = (own_home / "models").rglob("loop.gguf")
        other.unlink()
        gone = server.post("/v1/chat/completions", ask | {"model": "loop"})
        assert gone.status == 404
        assert str(own_home) not in gone.body.decode()
        assert server.get("/health").status == 200
    finally:
        assert server.stop() == (0, "")


def test_a_damaged_file_is_said_and_no_more(own_home: Path) -> None:
    (path,) = (own_home / "models").rglob("loop.gguf")
    path.write_bytes(path.read_bytes()[:5000])
    server = start(own_home, "--threads", "1")
    try:
        done = server.post("/api/chat", {"model": "loop", "messages": USER})
        assert done.status == 500
        assert done.json["error"]
        ask = {"model": "hi", "messages": USER, "temperature": 0}
        done = server.post("/v1/chat/completions", ask)
        assert done.json["choices"][0]["message"]["content"] == HI
    finally:
        assert server.stop() == (0, "")


def test_the_least_recently_used_goes(own_home: Path) -> None:
    server = start(own_home, "--threads", "1", "--max-loaded", "2", "--keep-alive", "-1")
    try:
        for name in ("hi", "tiny", "hi", "loop"):
            ask = {"model": name, "messages": USER, "max_tokens": 2}
            assert server.post("/v1/chat/completions", ask).status == 200
        loaded = [one["name"] for one in server.get("/api/ps").json["models"]]
        assert loaded == ["loop", "hi"]
    finally:
        assert server.stop() == (0, "")


def test_an_alias_with_an_adapter_shares_the_weights(own_home: Path, tmp_path: Path) -> None:
    from tests.support.tiny_models import tiny_lora

    lora = tiny_lora(tmp_path / "lora.gguf")
    server = start(own_home, "--threads", "1", "--only", "--alias", "plain=tiny", "--alias",
                   f"tuned=tiny+{lora}", "--alias", f"off=tiny+{lora}:0")  # fmt: skip
    try:
        ask = {"messages": USER, "max_tokens": 12, "temperature": 0}
        texts = {
            name: server.post("/v1/chat/completions", ask | {"model": name}).json["choices"][0][
                "message"
            ]["content"]
            for name in ("plain", "tuned", "off")
        }
        assert texts["plain"] == texts["off"] != texts["tuned"]
        assert len(server.get("/api/ps").json["models"]) == 1
        assert {one["id"] for one in server.get("/v1/models").json["data"]} == set(texts)
        assert server.post("/v1/chat/completions", ask | {"model": "hi"}).status == 404
    finally:
        assert server.stop() == (0, "")


def test_a_path_is_served_under_the_files_name(tmp_path: Path, tiny_gguf: Path) -> None:
    server = start(tmp_path / "empty", "--threads", "1", tiny_gguf)
    try:
        assert [one["id"] for one in server.get("/v1/models").json["data"]] == ["tiny"]
        ask = {"model": "tiny", "messages": USER, "max_tokens": 2}
        assert server.post("/v1/chat/completions", ask).status == 200
    finally:
        assert server.stop() == (0, "")


def test_the_request_log_says_nothing_of_what_was_said(served_home: Path) -> None:
    server = start(served_home, "--threads", "1", "--log-requests")
    secret = "my secret words"
    ask = {"model": "hi", "messages": [{"role": "user", "content": secret}], "temperature": 0}
    server.post("/v1/chat/completions", ask)
    server.get("/nothing?key=" + "x" * 10)
    status, said = server.stop()
    assert status == 0
    lines = [json.loads(line) for line in said.splitlines()]
    one = next(line for line in lines if line["path"] == "/v1/chat/completions")
    assert one["status"] == 200
    assert one["model"] == "hi"
    assert one["completion_tokens"] == len(HI) + 1
    assert secret not in said
    assert HI not in said


def test_many_ask_for_what_is_not_loaded_yet(own_home: Path) -> None:
    (path,) = (own_home / "models").rglob("loop.gguf")
    path.write_bytes(path.read_bytes()[:5000])
    server = start(own_home, "--threads", "1")
    found: list[Reply] = []

    def ask(model: str) -> None:
        body = {"model": model, "messages": USER, "temperature": 0}
        found.append(server.post("/v1/chat/completions", body))

    try:
        threads = [threading.Thread(target=ask, args=(m,)) for m in ["hi"] * 24 + ["loop"] * 24]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        right = [one for one in found if one.status == 200]
        assert len(right) == 24
        assert {one.json["choices"][0]["message"]["content"] for one in right} == {HI}
        failed = [one for one in found if one.status == 500]
        assert len(failed) == 24
        assert len({one.json["error"]["message"] for one in failed}) == 1
        assert [one["name"] for one in server.get("/api/ps").json["models"]] == ["hi"]
    finally:
        assert server.stop() == (0, "")


def test_memory_that_models_may_take(
    shell: Callable[..., Done], tiny_gguf: Path, own_home: Path
) -> None:
    done = shell("serve", "--port", "0", "--memory", "0.01", tiny_gguf, "--json")
    assert done.exit_code == 4
    assert "--memory" in done.json["error"]["message"]
    server = start(own_home, "--threads", "1", "--memory", "0.018", "--ctx", "512")
    try:
        sizes = {}
        for name in ("tiny", "tools"):  # 12 MiB each: there is room for one
            ask = {"model": name, "messages": USER, "max_tokens": 1}
            assert server.post("/v1/chat/completions", ask).status == 200
            (one,) = server.get("/api/ps").json["models"]
            sizes[one["name"]] = one["size"]
        assert set(sizes) == {"tiny", "tools"}
        assert max(sizes.values()) < 0.018 * 2**30 < sum(sizes.values())
    finally:
        assert server.stop() == (0, "")
