"""Conversations on a pty that change between a model here and an endpoint."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable

import pytest

from localllm.registry import Model, Registry
from localllm.registry.endpoints import Endpoints
from tests.chat.test_repl import ask, chat, fruits  # noqa: F401
from tests.conftest import Done
from tests.support.openai_server import DONE, SSE, Asked, OpenAIServer, chunk, stream, usage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
pytest.importorskip("pyte")


def test_to_an_endpoint_and_back(fruits: Model, registry: Registry) -> None:  # noqa: F811
    with OpenAIServer(stream(chunk("from afar", finish="stop"), usage(9, 2), DONE)) as server:
        Endpoints.of(registry).add("far", {"url": server.url, "model": "remote"})
        with chat("fruits", "--temperature", 0) as terminal:
            terminal.until_ready()
            ask(terminal, "hello")
            ask(terminal, "/model far")
            assert "far: remote at 127.0.0.1" in terminal.text()
            ask(terminal, "and you?")
            assert "from afar" in terminal.text()
            ask(terminal, "/stats")
            assert "9 tokens in" in terminal.text()
            ask(terminal, "/tokens")
            assert "counted by its server" in terminal.text()
            ask(terminal, "/model fruits")
            ask(terminal, "again")
            assert terminal.text().count("apple") == 2
    sent = server.asked[0].json["messages"]
    assert [one["role"] for one in sent] == ["user", "assistant", "user"]
    assert "apple" in sent[1]["content"]


def test_what_a_server_does_not_count_is_about_so_many(
    registry: Registry, cli: Callable[..., Done]
) -> None:
    """Estimates of ours are labelled; what it counts is told as it is."""
    for told, about in ((usage(9, 2), False), (b"", True), (usage(-3, 10**9), True)):
        with OpenAIServer(stream(chunk("from afar", finish="stop"), told, DONE)) as server:
            place = {"url": server.url, "model": "remote", "price_in": 2.0, "price_out": 4.0}
            Endpoints.of(registry).add("far", place, replace=True)
            done = cli("chat", "far", "hello", "--stats")
            assert done.exit_code == 0, done
            assert ("cost about " in done.err) is about, done.err
            assert ("about 9 tokens in" in done.err) is False
            assert ("9 tokens in" in done.err) is not about
            assert cli("chat", "far", "hello", "--json").data["estimated"] is about


def test_ctrl_c_stops_the_answer_and_its_connection(registry: Registry) -> None:
    def script(connection: socket.socket, asked: Asked) -> None:
        connection.sendall(SSE + b"\r\n" + chunk("begun and "))
        server.until_gone(connection)

    server = OpenAIServer(script)
    with server:
        Endpoints.of(registry).add("far", {"url": server.url, "model": "remote"})
        with chat("far") as terminal:
            terminal.until_ready()
            before = terminal.prompts()
            terminal.send("hello\r")
            end = time.monotonic() + 20
            while "begun" not in terminal.text() and time.monotonic() < end:
                time.sleep(0.05)
            terminal.send("\x03")
            assert server.gone.wait(10)
            terminal.until_ready(after=before)
            assert "(stopped)" in terminal.text()


def test_a_server_that_is_down_ends_the_answer_and_not_the_program(registry: Registry) -> None:
    Endpoints.of(registry).add("far", {"url": "http://127.0.0.1:9/v1", "model": "remote"})
    with chat("far") as terminal:
        terminal.until_ready()
        ask(terminal, "hello")
        assert "cannot be reached" in terminal.text()
        ask(terminal, "/show")
        assert "endpoint" in terminal.text()
