"""Workers that are down, busy or something else: known before llama.cpp is let near them."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from localllm.engine import rpc
from localllm.errors import SourceFailed, SourceUnreachable, UsageProblem

Script = Callable[[socket.socket], None]


@contextmanager
def listening(script: Script) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    script(connection)

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def hello(major: int, minor: int, patch: int = 0) -> Script:
    """llama.cpp's answer: a size, three version bytes, one of padding, 24 of capabilities."""

    def script(connection: socket.socket) -> None:
        asked = connection.recv(64)
        assert asked[:1] == b"\x0e"  # RPC_CMD_HELLO
        assert struct.unpack("<Q", asked[1:9]) == (24,)
        assert len(asked) == 33
        connection.sendall(struct.pack("<QBBBB", 28, major, minor, patch, 0) + bytes(24))

    return script


def test_the_version_is_read() -> None:
    with listening(hello(7, 0, 3)) as address:
        assert str(rpc.greet(address)) == "7.0.3"


@pytest.mark.parametrize("version", [(6, 0), (8, 0), (7, 1)])
def test_another_version_is_refused(version: tuple[int, int]) -> None:
    with listening(hello(*version)) as address:
        greeting = rpc.greet(address)
        with pytest.raises(SourceFailed, match=r"speaks RPC .*, this llama\.cpp 7\.0"):
            rpc._check_version(address, greeting)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (lambda connection: None, "no worker of this version"),
        (lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9\r\n"), "no worker of this"),
        (lambda connection: connection.sendall(struct.pack("<Q", 1 << 60)), "no worker of this"),
        (lambda connection: connection.sendall(struct.pack("<Q", 28) + b"\7"), "no worker of"),
    ],
)
def test_what_is_no_worker(script: Script, words: str) -> None:
    with listening(script) as address, pytest.raises(SourceFailed, match=words):
        rpc.greet(address)


def test_one_that_is_busy_with_another() -> None:
    """llama.cpp would wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # nobody accepts
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(SourceUnreachable, match="busy with another client"):
            rpc.greet(address, 0.3)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SourceUnreachable, match=f"no worker listens at 127.0.0.1:{port}"):
        rpc.greet(f"127.0.0.1:{port}")
    with pytest.raises(SourceUnreachable, match="no such host"):
        rpc.greet("no-such-host.invalid:50052")


@pytest.mark.parametrize(
    ("text", "address"),
    [("10.0.0.7:1", "10.0.0.7:1"), ("10.0.0.7", "10.0.0.7:50052"), (" gpu-box:9 ", "gpu-box:9"),
     ("worker.local:007", "worker.local:7")],
)  # fmt: skip
def test_addresses(text: str, address: str) -> None:
    assert rpc.parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":1", "h:", "h:0", "h:99999", "h:x", "[::1]:1", "http://h:1", "a b:1", "h:1:2"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageProblem):
        rpc.parse_address(text)


def test_buffers_of_workers_are_their_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"h:1": ("RPC0",), "h:2": ("RPC1", "RPC2")}
    monkeypatch.setattr(rpc, "_names", names)
    # llama.cpp counts a buffer's device from 0 on each worker
    assert rpc.plain_name("RPC0[h:1]") == "RPC0"
    assert rpc.plain_name("RPC0[h:2]") == "RPC1"
    assert rpc.plain_name("RPC1[h:2]") == "RPC2"
    assert rpc.plain_name("RPC0[h:3]") == "RPC0[h:3]"
    assert rpc.plain_name("CUDA0") == "CUDA0"
    assert rpc.address_of("RPC2") == "h:2"
    assert rpc.address_of("CUDA0") is None
