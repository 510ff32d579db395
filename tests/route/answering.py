"""Routers that answer, with tiny models and servers on loopback."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.endpoints import Wanted
from localllm.generation import Message, Sampling
from localllm.registry import Registry
from localllm.registry.endpoints import Endpoints
from localllm.route.answering.client import open_generator
from localllm.route.answering.routed import RoutedGenerator, RoutedStream
from localllm.route.making import create
from localllm.route.pool.member import Member
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.steps import AlwaysStep
from tests.serve.conftest import HI, add, chain
from tests.support.openai_server import OpenAIServer
from tests.support.tiny_models import tiny_chain, tiny_llama

SMALL = Member("small", "model", "hi")
CLOUD = Member("cloud", "endpoint", "far", outside=True)
TO_CLOUD = RouterSpec((SMALL, CLOUD), (AlwaysStep("cloud"),), Fallback(("cloud", "small")))

__all__ = [
    "CLOUD", "HI", "SMALL", "TO_CLOUD", "ask", "filled", "members", "models", "opened", "point",
]  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("members")
    models(Registry(folder / "home"), folder / "staged")
    return folder / "home"


@pytest.fixture(autouse=True)
def members(filled: Path, home: Path) -> None:
    """For whoever imports both fixtures: the models of `models`, in a home of the test's own."""
    shutil.copytree(filled, home)


def models(registry: Registry, folder: Path) -> None:
    """`hi` says HI, `loop` never ends, `noise` has random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    add(registry, "hi", tiny_chain(folder / "h.gguf", chain(HI)), architecture="llama")
    loop = {10: 97, 97: 98, 98: 99, 99: 97}
    add(registry, "loop", tiny_chain(folder / "l.gguf", loop), architecture="llama")
    add(registry, "noise", tiny_llama(folder / "n.gguf"), architecture="llama")
    shutil.rmtree(folder)


def point(registry: Registry, server: OpenAIServer, **more: Any) -> None:
    """Let the endpoint `far` be this server."""
    data = {"url": server.url, "model": "remote", **more}
    Endpoints.of(registry).add("far", data, replace=True)


def opened(
    registry: Registry, spec: RouterSpec, name: str = "mine", **more: Any
) -> RoutedGenerator:
    create(registry, name, spec)
    return open_generator(registry, name, n_ctx=256, **more)


def ask(
    generator: RoutedGenerator, text: str | Sequence[Message],
    more: dict[str, Any] | None = None, **sampling: Any,
) -> RoutedStream:  # fmt: skip
    """`more` is what else of a Wanted there is."""
    messages = (Message("user", text),) if isinstance(text, str) else tuple(text)
    values = {"temperature": 0.0, "max_tokens": 20, **sampling}
    wanted = Wanted(messages=messages, sampling=Sampling(**values), given=frozenset(values))
    return generator.ask(replace(wanted, **(more or {})))
