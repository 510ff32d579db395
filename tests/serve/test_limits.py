"""Slow, vanished, malformed and greedy clients harm nobody else."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import HI, Server, start

USER = [{"role": "user", "content": "x"}]
ENDLESS = {"model": "loop", "messages": USER, "stream": True, "max_tokens": 100_000,
           "ignore_eos": True}  # fmt: skip


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def send(server: Server, body: Any, path: str = "/v1/chat/completions") -> socket.socket:
    """A request whose answer nobody reads yet."""
    raw = json.dumps(body).encode()
    connection = connect(server)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n"
    connection.sendall(head.encode() + raw)
    return connection


def running(server: Server) -> float:
    return server.metric("localllm_running")


def still_right(server: Server) -> None:
    done = server.post("/v1/chat/completions", {"model": "hi", "messages": USER, "temperature": 0})
    assert done.json["choices"][0]["message"]["content"] == HI


@pytest.fixture(scope="module")
def roomy(served_home: Path) -> Iterator[Server]:
    """A long context, so that endless answers last."""
    server = start(served_home, "--ctx", "100000", "--slots", "2", "--threads", "1", "loop",
                   "hi", "--max-body", "1", "--max-connections", "60")  # fmt: skip
    yield server
    assert server.stop() == (0, "")


def test_a_vanished_client_ends_its_request(roomy: Server) -> None:
    connection = send(roomy, ENDLESS)
    assert connection.recv(100)
    roomy.wait(lambda: running(roomy) == 1)
    connection.close()
    roomy.wait(lambda: running(roomy) == 0)
    still_right(roomy)


def test_one_who_waits_for_all_of_it_too(roomy: Server) -> None:
    for path, body in (
        ("/v1/chat/completions", ENDLESS | {"stream": False}),
        ("/api/chat", {"model": "loop", "messages": USER, "stream": False}),
        ("/v1/responses", {"model": "loop", "input": "x"}),
    ):
        connection = send(roomy, body, path)
        roomy.wait(lambda: running(roomy) == 1)
        connection.close()
        roomy.wait(lambda: running(roomy) == 0)
    still_right(roomy)


def test_one_who_waits_in_the_line_leaves_it(roomy: Server) -> None:
    clients = [send(roomy, ENDLESS) for _ in range(4)]
    roomy.wait(lambda: running(roomy) == 2 and roomy.metric("localllm_waiting") == 2)
    for client in clients:
        client.close()
    roomy.wait(lambda: running(roomy) == 0 and roomy.metric("localllm_waiting") == 0)
    roomy.wait(lambda: roomy.metric("localllm_requests_open") == 1)


def test_who_reads_nothing_stalls_nobody(roomy: Server) -> None:
    stalled = send(roomy, ENDLESS)
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    roomy.wait(lambda: running(roomy) == 1)
    for _ in range(3):
        still_right(roomy)
    stalled.close()
    roomy.wait(lambda: running(roomy) == 0)


def test_a_body_too_large(roomy: Server) -> None:
    big = {"model": "hi", "messages": [{"role": "user", "content": "x" * (2 << 20)}]}
    done = roomy.post("/v1/chat/completions", big)
    assert done.status == 413
    assert done.json["error"]["type"] == "invalid_request_error"
    assert roomy.post("/api/chat", big).json["error"]
    announced = connect(roomy)
    announced.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                      b"Content-Length: 99999999999\r\n\r\n")  # fmt: skip
    assert b" 413 " in announced.recv(1000)
    announced.close()
    chunked = connect(roomy)
    chunked.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
    answer = b""
    try:
        for _ in range(40):
            chunked.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    except OSError:
        pass  # it hung up, as it should
    try:
        answer = chunked.recv(1000)
    except OSError:
        answer = b" 413 "  # reset: our unread bytes were on their way
    assert b" 413 " in answer
    still_right(roomy)


def test_encoded_bodies_are_refused(roomy: Server) -> None:
    done = roomy.post("/v1/chat/completions", b"\x1f\x8b\x08", Content_Encoding="gzip")
    assert done.status == 415


@pytest.mark.parametrize(
    "raw",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\x00" * 100,
     b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"
     b"\r\n0\r\n\r\n",
     b"GET /%zz%00 HTTP/1.1\r\nHost: localhost\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http(roomy: Server, raw: bytes) -> None:
    connection = connect(roomy)
    connection.sendall(raw)
    answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 4"), answer
    connection.close()
    still_right(roomy)


def test_a_head_without_end(roomy: Server) -> None:
    connection = connect(roomy)
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
    answer = b""
    try:
        for i in range(600):
            connection.sendall(b"X-%d: " % i + b"y" * 1000 + b"\r\n")
        answer = connection.recv(1000)
    except OSError:
        answer = b" 431 "  # reset: it was refused while we wrote
    assert b" 431 " in answer
    still_right(roomy)


def test_more_connections_than_allowed(roomy: Server) -> None:
    clients = [connect(roomy) for _ in range(70)]
    refused = 0
    for client in clients:
        client.settimeout(0.2)
        try:
            refused += b" 503 " in client.recv(200)
        except TimeoutError:
            continue
    assert refused >= 10
    for client in clients:
        client.close()
    roomy.wait(lambda: roomy.get("/health").status == 200)
    still_right(roomy)


def test_too_many_waiting_are_told_to_come_back(served_home: Path) -> None:
    server = start(served_home, "--ctx", "100000", "--slots", "1", "--max-waiting", "1",
                   "--threads", "1", "loop")  # fmt: skip
    try:
        clients = [send(server, ENDLESS)]
        server.wait(lambda: running(server) == 1)
        clients.append(send(server, ENDLESS))
        server.wait(lambda: server.metric("localllm_waiting") == 1)
        done = server.post("/v1/chat/completions", ENDLESS)
        assert done.status == 503
        assert int(done.headers["retry-after"]) >= 1
        assert done.json["error"]["code"] == "overloaded"
        assert server.post("/api/chat", {"model": "loop", "messages": USER}).status == 503
        for client in clients:
            client.close()
    finally:
        assert server.stop()[0] == 0


def test_the_time_of_one_request(served_home: Path) -> None:
    server = start(served_home, "--ctx", "100000", "--timeout", "1.5", "--threads", "1", "loop")
    try:
        done = server.post("/v1/chat/completions", ENDLESS | {"stream": False})
        assert done.status == 504
        assert done.json["error"]["code"] == "timeout"
        *_, last = server.post("/v1/chat/completions", ENDLESS).events
        assert last["error"]["code"] == "timeout"
        last = server.post("/api/chat", {"model": "loop", "messages": USER}).lines[-1]
        assert "1.5 s" in last["error"]
    finally:
        assert server.stop()[0] == 0


def test_bodies_and_heads_that_never_end(server: Server) -> None:
    """With limits of milliseconds, in this process: nobody waits a minute for a test."""
    import asyncio

    import uvicorn

    from localllm.serve.web.bodies import Bodies
    from localllm.serve.web.boundary import Boundary
    from localllm.serve.web.connection import Connection
    from localllm.serve.web.limits import Limits

    limits = Limits(head_s=0.3, body_s=0.3, stall_s=0.5)

    class Quick(Connection):
        pass

    Quick.limits = limits
    bodies = Bodies(limits)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request

        if scope["path"] == "/flood":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536,
                            "more_body": True})  # fmt: skip
        await bodies.read(Request(scope, receive))

    ended: list[Any] = []
    boundary = Boundary(application, limits, lambda *what: ended.append(what))

    async def scene() -> None:
        config = uvicorn.Config(boundary, http=Quick, ws="none", lifespan="off", log_config=None)
        one = uvicorn.Server(config)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            clock = asyncio.create_task(boundary.clock())
            running = asyncio.create_task(one._serve(sockets=[listener]))
            while not one.started:
                await asyncio.sleep(0.01)

            async def said(raw: bytes) -> bytes:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(raw)
                async with asyncio.timeout(10):
                    answer = await reader.read(300)
                writer.close()
                return answer

            assert await said(b"") == b""  # nothing was asked, nothing is said
            assert b" 408 " in await said(b"GET / HT")
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
            assert b" 408 " in await said(head + b"{")
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(10):
                while len(ended) < 2:  # the body's, and this one: cut off
                    await asyncio.sleep(0.05)
            assert ended[-1][0].status == 499
            writer.close()
            one.should_exit = True
            await running
            clock.cancel()

    begun = time.monotonic()
    asyncio.run(scene())
    assert time.monotonic() - begun < 30
