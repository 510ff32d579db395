"""Clients of those elsewhere: made once, and what they say of addresses kept back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from localllm.endpoints import Endpoint, RequestRefused
from localllm.errors import SourceFailed, UsageProblem
from localllm.library.endpoints import FarEndpoint
from localllm.registry import Registry
from localllm.registry.endpoints import Endpoints
from localllm.route.far import FarRouter
from localllm.serve.answering.far import Elsewhere, for_clients

HOSTS = ("10.0.0.7:8000", "10.0.0.7", "gpu.example")


@dataclass(frozen=True)
class Slow:
    """Somebody whose client takes a while to make."""

    name: str
    version: int = 0

    def client(self, lender: Any = None) -> object:
        time.sleep(0.05)
        return object()


def use(elsewhere: Elsewhere, far: Any) -> Any:
    return elsewhere.use(far)


def test_a_client_is_made_once_whoever_asks_first() -> None:
    elsewhere, barrier = Elsewhere(), threading.Barrier(8)

    def ask(number: int) -> Any:
        barrier.wait(10)
        return use(elsewhere, Slow(f"n{number % 2}"))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert len({id(one) for one in found}) == 2
    changed = use(elsewhere, Slow("n0", version=1))
    assert changed is not use(elsewhere, Slow("n1"))
    assert changed is use(elsewhere, Slow("n0", version=1))


def test_thresholds_of_clients_make_no_more_clients_than_there_are_hundredths(
    registry: Registry,
) -> None:
    router = FarRouter(registry, "mine", 1, 0.0)
    names = {router.at(str(n / 5000)).name for n in range(5001)}
    assert len(names) == 101
    assert {"router/mine@0", "router/mine@0.37", "router/mine@1"} <= names


def test_a_router_tells_clients_no_members_address(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, host in enumerate(HOSTS):
        data = {"url": f"http://{host}/v1", "model": "m"}
        Endpoints.of(registry).add(f"member-{number}", data)
    router = FarRouter(registry, "mine", 1, 0.0)
    for host in HOSTS:
        told = for_clients(router, SourceFailed(f"m ({host}) failed, see http://{host}/v1", "x"))
        assert told.message == "m failed, see http://router/mine/v1"
        assert told.hint is None
        assert host in capsys.readouterr().err  # the operator's log has all of it


def test_an_address_in_what_a_server_says_of_itself() -> None:
    far = FarEndpoint(Endpoint("far", "http://gpu:8000/v1", "m"))
    told = for_clients(far, SourceFailed("far (gpu:8000) failed: no gpus at gpu., only gpu-2"))
    assert told.message == "far failed: no gpus at far., only gpu-2"


def test_the_operator_reads_what_was_refused(capsys: pytest.CaptureFixture[str]) -> None:
    far = FarEndpoint(Endpoint("far", "http://gpu.example/v1", "m"))
    told = for_clients(far, RequestRefused("far (gpu.example) refuses (status 400)", 400))
    assert told.message == "far refuses (status 400)"
    assert "far (gpu.example) refuses" in capsys.readouterr().err
    for_clients(far, UsageProblem("the client's own mistake"))
    assert capsys.readouterr().err == ""
