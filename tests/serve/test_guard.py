"""Who may ask, and from where."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Done
from tests.serve.conftest import HI, Server, start

ASK = {"model": "hi", "messages": [{"role": "user", "content": "x"}], "temperature": 0}
KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def locked(served_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys, a name and a page elsewhere that may ask."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# ours\n{KEY}  # laptop\n\nsecond-key-1234\n")
    server = start(
        served_home, "--api-key-file", keys, "--allow-host", "LLM.example", "--cors",
        "https://app.example", "--ctx", "256", "--threads", "1",
        env={"LOCALLLM_API_KEY": "from-environment"},
    )  # fmt: skip
    yield server
    assert server.stop() == (0, "")


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:1", "127.0.0.1:80", "[::1]:80", "192.168.1.5", "a.localhost",
     "LOCALHOST."],
)  # fmt: skip
def test_addresses_and_localhost_are_ours(server: Server, host: str) -> None:
    assert server.get("/health", Host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "",
                                  "xlocalhost", "[::1].evil"])  # fmt: skip
def test_another_name_is_refused(server: Server, host: str) -> None:
    done = server.post("/api/chat", ASK, Host=host)
    assert done.status == 403
    assert "not called" in done.json["error"]


def test_pages_elsewhere_are_refused(server: Server) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        done = server.post("/v1/chat/completions", ASK, Origin=origin)
        assert done.status == 403, origin
        assert "access-control-allow-origin" not in done.headers
    assert server.ask("DELETE", "/api/delete", {"model": "hi"}, Origin="null").status == 403
    preflight = server.ask("OPTIONS", "/v1/chat/completions", Origin="https://evil.example")
    assert preflight.status == 403
    hidden = server.get("/api/tags", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")
    assert hidden.status == 403
    own = server.post("/v1/chat/completions", ASK, Origin=f"http://127.0.0.1:{server.port}")
    assert own.status == 200


def test_keys(locked: Server) -> None:
    for headers in (
        {}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Basic {KEY}"}, {"x_api_key": "second-key-123"},
    ):  # fmt: skip
        done = locked.post("/v1/chat/completions", ASK, **headers)
        assert done.status == 401
        assert done.headers["www-authenticate"] == "Bearer"
        assert done.json["error"]["code"] == "invalid_api_key"
        assert KEY not in done.body.decode()
    for path in ("/v1/models", "/api/tags", "/metrics", "/nothing"):
        assert locked.get(path).status == 401
    for headers in (
        {"Authorization": f"Bearer {KEY}"}, {"Authorization": "bearer second-key-1234"},
        {"x_api_key": "from-environment"},
    ):  # fmt: skip
        done = locked.post("/v1/chat/completions", ASK, **headers)
        assert done.json["choices"][0]["message"]["content"] == HI
    assert locked.get("/health").status == locked.get("/").status == 200


def test_a_page_that_may_ask(locked: Server) -> None:
    origin = "https://app.example"
    preflight = locked.ask("OPTIONS", "/v1/chat/completions", Origin=origin, Host="llm.example")
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == origin
    done = locked.post("/v1/chat/completions", ASK, Origin=origin, Authorization=f"Bearer {KEY}")
    assert done.status == 200
    assert done.headers["access-control-allow-origin"] == origin
    other = locked.post("/v1/chat/completions", ASK, Origin="https://app.example.evil")
    assert other.status == 403


def test_beyond_this_machine_only_with_a_key(shell: Callable[..., Done]) -> None:
    done = shell("serve", "--host", "0.0.0.0", "--port", "0", "--json")
    assert done.exit_code == 2
    assert "API key" in done.json["error"]["message"]
    weak = shell("serve", "--host", "0.0.0.0", "--port", "0", "--api-key", "short", "--json")
    assert weak.exit_code == 2


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.5.5.5", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("no.such.name.invalid", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    from localllm.serve.listener import is_loopback

    assert is_loopback(host) is loopback


def test_beyond_this_machine_models_are_not_managed(served_home: Path) -> None:
    server = start(served_home, "--host", "0.0.0.0", "--api-key", KEY)
    try:
        for method, path in (("DELETE", "/api/delete"), ("POST", "/api/pull"),
                             ("POST", "/api/copy"), ("POST", "/api/create")):  # fmt: skip
            done = server.ask(method, path, {"model": "hi"}, Authorization=f"Bearer {KEY}")
            assert done.status == 403
            assert "--manage" in done.json["error"]
    finally:
        assert server.stop()[0] == 0


def test_a_taken_port_is_one_line(shell: Callable[..., Done]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = shell("serve", "--port", other.getsockname()[1], "--json")
    assert done.exit_code == 1
    assert done.json["error"]["kind"] == "port_taken"
