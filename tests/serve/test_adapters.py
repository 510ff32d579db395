"""Registered adapters as models of the server: listed, and answered with beside their base."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.serve.conftest import Server, start
from tests.support.tuned import registered_adapter

USER = [{"role": "user", "content": "x"}]
GREEDY = {"messages": USER, "max_tokens": 12, "temperature": 0}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")


@pytest.fixture
def tuned_home(own_home: Path, tmp_path: Path) -> Path:
    registry = Registry(own_home)
    registered_adapter(registry, registry.resolve("tiny"), tmp_path / "made", name="tuned")
    return own_home


@pytest.fixture
def own_server(tuned_home: Path) -> Iterator[Server]:
    server = start(tuned_home, "--threads", "1", "--ctx", "512")
    yield server
    assert server.stop() == (0, "")


def answer(server: Server, name: str) -> str:
    reply = server.post("/v1/chat/completions", {"model": name, **GREEDY})
    assert reply.status == 200, reply.body
    return str(reply.json["choices"][0]["message"]["content"])


def alone(cli: Callable[..., Done], *words: object) -> str:
    how = ("--temp", "0", "--max-tokens", "12", "--threads", "1", "--json")
    done = cli("chat", *words, "x", *how)
    assert done.exit_code == 0, done
    return str(done.data["text"])


def test_an_adapter_is_listed_and_answers_beside_its_base(
    own_server: Server, tuned_home: Path, cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "tuned" in {one["id"] for one in own_server.get("/v1/models").json["data"]}
    tags = {one["name"]: one for one in own_server.get("/api/tags").json["models"]}
    assert tags["tuned"]["details"]["parent_model"] == "tiny"
    assert tags["tuned"]["digest"] not in ("", tags["tiny"]["digest"])
    with ThreadPoolExecutor(8) as pool:  # both at once, in one scheduler
        names = ["tiny", "tuned"] * 4
        texts = list(pool.map(lambda name: answer(own_server, name), names))
    assert len(own_server.get("/api/ps").json["models"]) == 1  # the weights are there once
    monkeypatch.setenv("LOCALLLM_HOME", str(tuned_home))
    expected = {name: alone(cli, name) for name in ("tiny", "tuned")}
    assert expected["tiny"] != expected["tuned"]
    assert texts == [expected[name] for name in names]


def test_an_adapter_is_a_routers_member(
    tuned_home: Path, cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the adapter attached once: twice would be another answer."""
    monkeypatch.setenv("LOCALLLM_HOME", str(tuned_home))
    done = cli("route", "create", "mine", "--member", "small=tuned", "--member", "big=tiny",
               "--strategy", "always", "--strong", "small")  # fmt: skip
    assert done.exit_code == 0, done
    expected = alone(cli, "tuned")
    assert alone(cli, "router/mine") == expected
    server = start(tuned_home, "--threads", "1", "--ctx", "512")
    try:
        assert answer(server, "router/mine") == expected
    finally:
        assert server.stop() == (0, "")


def test_an_adapter_whose_base_is_gone_is_not_listed(tuned_home: Path) -> None:
    registry = Registry(tuned_home)
    registry.remove(registry.resolve("tiny"))
    server = start(tuned_home, "--threads", "1")
    try:
        assert "tuned" not in {one["id"] for one in server.get("/v1/models").json["data"]}
        assert "hi" in {one["name"] for one in server.get("/api/tags").json["models"]}
        reply = server.post("/v1/chat/completions", {"model": "tuned", **GREEDY})
        assert reply.status == 404
        assert "tuned is an adapter, and its base is not here" in reply.json["error"]["message"]
    finally:
        assert server.stop() == (0, "")
