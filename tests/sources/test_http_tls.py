"""https: certificates from the environment, tunnels through a proxy, no way back to http."""

from __future__ import annotations

import hashlib
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from localllm.errors import SourceFailed, SourceUnreachable
from localllm.sources import wire
from localllm.sources.http import HttpFetcher
from localllm.sources.retry import Patience
from tests.support.http_server import Answer, Fault, FileServer, Request

DATA = random.Random(7).randbytes(3_000_000)
HASTE = Patience(attempts=3, first_wait_s=0.01, stall_s=2)


class SecureServer(FileServer):
    def respond(self, request: Request) -> Answer:
        if request.path == "/down":
            return Answer.redirect("http://127.0.0.1:9/x")
        return super().respond(request)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, pem = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(pem), "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("making a certificate needs the openssl program")
    both = folder / "both.pem"
    both.write_bytes(key.read_bytes() + pem.read_bytes())
    return both


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecureServer]:
    wire.tls.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with SecureServer(certificate=certificate) as running:
        running.add("/m", DATA)
        yield running
    wire.tls.cache_clear()


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that tunnels (CONNECT): its URL, and the heads of the requests it got."""
    heads: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                head = client.recv(65536)
                heads.append(head)
                host, _, port = head.split()[1].decode().partition(":")
                upstream = socket.create_connection((host, int(port)))
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                for pair in ((client, upstream), (upstream, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield f"http://me:word@127.0.0.1:{listener.getsockname()[1]}", heads


def test_a_download_by_tls_resumes_too(server: SecureServer, tmp_path: Path) -> None:
    server.fail("/m", Fault(cut_after=1_000_000))
    server.fail("/m", Fault(stall_after=500_000, stall_s=5))
    got = HttpFetcher(patience=HASTE).fetch(server.url + "/m", tmp_path / "p")
    assert got.sha256 == hashlib.sha256(DATA).hexdigest()
    assert [r.range_start for r in server.requests] == [0, 1_000_000, 1_500_000]


def test_a_certificate_nobody_vouches_for(
    server: SecureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    wire.tls.cache_clear()
    with pytest.raises(
        SourceUnreachable, match=r"certificate of 127\.0\.0\.1:.* not trusted"
    ) as caught:
        HttpFetcher(patience=HASTE).get(server.url + "/m")
    assert "SSL_CERT_FILE" in str(caught.value.hint)


def test_https_does_not_fall_back_to_http(server: SecureServer) -> None:
    with pytest.raises(SourceFailed, match="from https to http"):
        HttpFetcher(patience=HASTE).get(server.url + "/down")


def test_a_proxy_is_tunnelled_through(
    server: SecureServer,
    proxy: tuple[str, list[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, heads = proxy
    monkeypatch.setenv("https_proxy", url)
    monkeypatch.setenv("no_proxy", "")
    server.fail("/m", Fault(cut_after=1_000_000))
    got = HttpFetcher(patience=HASTE).fetch(server.url + "/m", tmp_path / "p")
    assert got.sha256 == hashlib.sha256(DATA).hexdigest()
    assert heads[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.".encode())
    assert b"Proxy-Authorization: Basic bWU6d29yZA==" in heads[0]
    assert all("proxy-authorization" not in r.headers for r in server.requests)
