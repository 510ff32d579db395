"""Endpoints of servers on loopback."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from localllm.endpoints import Endpoint, EndpointGenerator, EndpointStream, Wanted
from localllm.generation import Message, Sampling
from tests.support.openai_server import OpenAIServer

HELLO = (Message("user", "hello"),)


def endpoint(server: OpenAIServer, **more: Any) -> Endpoint:
    return Endpoint("far", server.url, model="remote", **more)


def ask(made: EndpointGenerator, **more: Any) -> EndpointStream:
    return made.ask(Wanted(**{"messages": HELLO, "sampling": Sampling(), **more}))


def said(server: OpenAIServer, made: Endpoint | None = None, **more: Any) -> EndpointStream:
    """One whole answer."""
    with EndpointGenerator(made or endpoint(server)) as generator:
        stream = ask(generator, **more)
        stream.answer = stream.text()  # type: ignore[attr-defined]
    return stream


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own for 127.0.0.1, with its key."""
    if (openssl := which("openssl")) is None:
        pytest.skip("making a certificate needs the openssl program")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path),
         "-out", str(path) + ".crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path
