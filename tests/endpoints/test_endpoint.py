"""Names, addresses, and what is kept of a server."""

from __future__ import annotations

import pytest

from localllm.endpoints import Endpoint, KeySource, checked_name, checked_url
from localllm.errors import DamagedFile, UsageProblem


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://h", "http://h/v1"),
        ("http://h/", "http://h/v1"),
        ("http://h:8000/v1", "http://h:8000/v1"),
        ("https://h/api/v1/", "https://h/api/v1"),
        ("https://h/v1/chat/completions", "https://h/v1"),
        ("https://h/v1beta/openai/models", "https://h/v1beta/openai"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_addresses(given: str, base: str) -> None:
    assert checked_url(given) == base
    assert checked_url(base) == base


@pytest.mark.parametrize(
    "text",
    ["", "h:8000", "ftp://h/v1", "http://", "http://h:99999/v1", "http://u:p@h/v1",
     "https://h/v1?key=secret", "http://h/v1#x", "http://h/a b", "http://h\n/v1", "file:///etc"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        checked_url(text)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", ["gpt", "openai/gpt-4o", "my.server_1"])
def test_names(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a b", "./gpt", "/gpt", "gpt.gguf", "hf:org/repo", "gpt:latest", "gpt@1", "a/b/c d",
     "router/x", "Router", "human", "x" * 200, "ollama:gpt", "https://h/v1"],
)  # fmt: skip
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageProblem):
        checked_name(name)


@pytest.mark.parametrize(
    ("url", "here"),
    [("http://127.0.0.1:1/v1", True), ("http://localhost/v1", True), ("http://[::1]/v1", True),
     ("http://127.8.9.1/v1", True), ("http://a.localhost/v1", True),
     ("http://10.0.0.7/v1", False), ("http://localhost.evil.example/v1", False),
     ("http://0x7f.example/v1", False)],
)  # fmt: skip
def test_this_machine(url: str, here: bool) -> None:
    assert Endpoint("far", url, "m").is_this_machine is here


def test_data_round_trip_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-secret-1")
    made = Endpoint(
        "far", "http://h/v1", "m", "vllm", KeySource(env="FAR_KEY"), 0.5, 1.5, 4096, 10.0, 60.0
    )
    assert Endpoint.from_data("far", made.as_data()) == made
    assert "sk-secret-1" not in repr(made) + str(made.as_data())


@pytest.mark.parametrize(
    "data",
    [{}, {"url": "http://h/v1"}, {"url": "http://h", "model": "m", "kind": "x"},
     {"url": "http://h", "model": "m", "key": {"env": "a b"}},
     {"url": "http://h", "model": "m", "key": "sk-1"}],
)  # fmt: skip
def test_what_no_version_wrote(data: dict[str, object]) -> None:
    with pytest.raises(DamagedFile):
        Endpoint.from_data("far", data)


def test_costs() -> None:
    assert Endpoint("far", "http://h/v1", "m").cost(10, 10) is None
    priced = Endpoint("far", "http://h/v1", "m", price_in=2.0, price_out=10.0)
    assert priced.cost(1000, 500) == pytest.approx(0.002 + 0.005)


@pytest.mark.parametrize("bad", [{"price_in": -1.0}, {"price_out": float("nan")},
                                 {"timeout_s": 0.0}, {"total_s": float("inf")}])  # fmt: skip
def test_numbers_that_cannot_be(bad: dict[str, float]) -> None:
    with pytest.raises(UsageProblem):
        Endpoint("far", "http://h/v1", "m", **bad)  # type: ignore[arg-type]
