"""Lending devices: a process that serves them, and this one, which watches over it.

llama.cpp's server ends its process over a client that does not keep to the protocol; it is then
started again. A process of its own also keeps what it prints away from our stdout.
"""

from __future__ import annotations

import ipaddress
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from localllm import config
from localllm.closing import Closing
from localllm.engine import build, rpc
from localllm.engine.build import Device
from localllm.errors import EngineError, LocalLLMError, UsageProblem
from localllm.hardware import detect

_START_S = 60.0  # GPU drivers take their time
_STOP_S = 3.0
_AGAIN_S = (0.5, 2.0, 10.0)  # waits between starts; one that ran longer than the last starts anew


@dataclass(frozen=True)
class Lending:
    """What is to be lent, and where. `devices` empty: every GPU, else the processor."""

    host: str
    port: int
    devices: tuple[str, ...] = ()
    threads: int | None = None
    trust_network: bool = False

    def __post_init__(self) -> None:
        if self.host != "localhost" and _ip(self.host) is None:
            raise UsageProblem(
                f"--host {self.host!r} is no IPv4 address: llama.cpp's RPC knows no other",
                "--host 127.0.0.1, or 0.0.0.0 for every network of this machine",
            )

    @property
    def ip(self) -> str:
        return "127.0.0.1" if self.host == "localhost" else self.host

    @property
    def is_loopback(self) -> bool:
        found = _ip(self.ip)
        return found is not None and found.is_loopback


@dataclass(frozen=True)
class WorkerReady:
    """Where a worker listens. `address` is what --rpc of another command wants."""

    host: str
    port: int
    address: str
    devices: tuple[Device, ...]
    n_threads: int
    protocol: str
    pid: int


class PortTaken(LocalLLMError):
    """Somebody else listens there, or the address is none of this machine's."""


def lend(
    wanted: Lending,
    on_ready: Callable[[WorkerReady], None],
    tell: Callable[[str], None],
    *,
    verbose: bool = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises UsageProblem for a device that is not there, PortTaken,
    EngineError for a build without RPC or a server that does not start."""
    rpc.require()
    devices = _chosen(wanted.devices)
    hardware = detect()
    n_threads = wanted.threads or hardware.cpu.threads
    port = _free_port(wanted.ip, wanted.port)
    devices = tuple(_with_free(d, hardware.memory.available_bytes) for d in devices)
    request = {
        "host": wanted.ip, "port": port, "threads": n_threads,
        "devices": [device.name for device in devices],
    }  # fmt: skip
    shown = "127.0.0.1" if wanted.ip == "0.0.0.0" else wanted.ip
    with _stoppable() as stopped, _Server(request, verbose) as server:
        greeting = _greeted(server, f"{shown}:{port}", stopped)
        if greeting is None:
            return
        on_ready(
            WorkerReady(
                wanted.ip, port, f"{shown}:{port}", devices, n_threads, str(greeting),
                server.process.pid,
            )
        )  # fmt: skip
        _keep_alive(server, stopped, tell)


class _Server(Closing):
    """The process that serves, and those that take its place."""

    def __init__(self, request: dict[str, object], verbose: bool) -> None:
        self._request, self._verbose = request, verbose
        self.begun = time.monotonic()
        self.process = _started(request, verbose)

    def again(self) -> None:
        self.close()
        self.begun = time.monotonic()
        self.process = _started(self._request, self._verbose)

    def close(self) -> None:
        """It holds nothing that would be lost."""
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _keep_alive(server: _Server, stopped: threading.Event, tell: Callable[[str], None]) -> None:
    failures = 0
    while not stopped.wait(0.2):
        status = server.process.poll()
        if status is None:
            continue
        lasted = time.monotonic() - server.begun
        failures = 1 if lasted > _AGAIN_S[-1] else failures + 1
        tell(f"the server ended (status {status}); it is started again")
        if stopped.wait(_AGAIN_S[min(failures, len(_AGAIN_S)) - 1]):
            return
        server.again()


def _started(request: dict[str, object], verbose: bool) -> subprocess.Popen[str]:
    # The child must find this package, and nothing that lies in the current folder (-P).
    root = str(Path(__file__).resolve().parents[2])
    environment = {**config.environment(), "PYTHONPATH": root, "GGML_NO_BACKTRACE": "1"}
    environment.pop(rpc.VARIABLE, None)  # it lends its own devices, not those of others
    # Its stdout is chatter for people, and ours is data
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "localllm.worker.child"],
        stdin=subprocess.PIPE,
        stdout=sys.stderr if verbose else subprocess.DEVNULL,
        stderr=None if verbose else subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    with suppress(OSError):  # it died already: that is seen by who waits for it
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()  # and stays open: its end tells the child that we are gone
    return process


def _greeted(server: _Server, address: str, stopped: threading.Event) -> rpc.Greeting | None:
    """Once it answers; None where it was told to stop before."""
    end = time.monotonic() + _START_S
    while not stopped.wait(0.1):
        if (status := server.process.poll()) is not None:
            raise EngineError(f"llama.cpp's RPC server did not start (status {status})",
                              "localllm worker --verbose")  # fmt: skip
        try:
            return rpc.greet(address, 2.0)
        except LocalLLMError:
            if time.monotonic() > end:
                raise
    return None


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {
        one: signal.signal(one, lambda *_: stopped.set()) for one in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopped
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _chosen(names: Sequence[str]) -> tuple[Device, ...]:
    own = [device for device in build.devices() if rpc.address_of(device.name) is None]
    known = {device.name.casefold(): device for device in own}
    for name in names:
        if name.casefold() not in known:
            there = ", ".join(device.name for device in own)
            raise UsageProblem(f"there is no device {name!r} here", f"there are {there}")
    if names:
        return tuple(known[name] for name in dict.fromkeys(name.casefold() for name in names))
    return tuple(d for d in own if d.offloads) or tuple(d for d in own if d.type == "cpu")[:1]


def _with_free(device: Device, available_bytes: int) -> Device:
    """ggml calls all of the main memory free."""
    if device.type != "cpu":
        return device
    return replace(device, memory_free_bytes=min(available_bytes, device.memory_total_bytes))


def _free_port(host: str, port: int) -> int:
    """`port` if it can be listened at, any where it is 0. Raises PortTaken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":  # there it would take a port from who has it
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(f"{host}:{port} cannot be listened at: {error.strerror}",
                            "another --port, or 0 for any that is free") from None  # fmt: skip
        return int(probe.getsockname()[1])


def _ip(text: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        return None
