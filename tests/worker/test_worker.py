"""Devices lent and used, over two real workers on loopback where llama.cpp was built for it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from localllm.engine import rpc
from localllm.errors import SourceFailed
from tests.conftest import Done
from tests.support.tiny_models import tiny_chain, tiny_llama

WITHOUT = "this build of llama.cpp has no RPC backend: CMAKE_ARGS=-DGGML_RPC=on"
needs_rpc = pytest.mark.skipif(not rpc.supported(), reason=WITHOUT)
Shell = Callable[..., Done]


class Worker:
    """`localllm worker` in a process of its own."""

    def __init__(self, *args: object) -> None:
        command = [sys.executable, "-m", "localllm", "worker", "--port", "0", "--json",
                   "--threads", "1", *map(str, args)]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.data = json.loads(self.process.stdout.readline())["data"]
        self.address: str = self.data["address"]

    def kill_server(self) -> None:
        """The process that serves, as a crash would end it."""
        (child,) = psutil.Process(self.process.pid).children()
        child.kill()

    def stop(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    found = [Worker(), Worker()]
    yield found
    for one in found:
        one.stop()


def over(workers: list[Worker]) -> list[str]:
    return [f"--rpc={worker.address}" for worker in workers]


# --- without a build for it ---------------------------------------------------------------------


@pytest.mark.skipif(rpc.supported(), reason="this build of llama.cpp has the RPC backend")
@pytest.mark.parametrize(
    "args",
    [["worker"], ["chat", "{path}", "hi", "--rpc", "127.0.0.1:9"],
     ["fit", "{path}", "--rpc", "127.0.0.1:9"], ["bench", "{path}", "--rpc", "127.0.0.1:9"],
     ["quality", "{path}", "--rpc", "127.0.0.1:9"],
     ["serve", "{path}", "--rpc", "127.0.0.1:9"]],
    ids=lambda args: args[0],
)  # fmt: skip
def test_a_build_without_rpc_says_how_to_get_one(
    cli: Callable[..., Done], args: list[str], tiny_gguf: Path
) -> None:
    done = cli(*[arg.format(path=tiny_gguf) for arg in args], "--json")
    assert done.exit_code == 1
    assert done.json["error"]["message"] == "this build of llama.cpp has no RPC backend"
    assert "-DGGML_RPC=on" in done.json["error"]["hint"]


def test_a_device_is_lent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from localllm.engine import build
    from localllm.worker import worker

    own = next(one for one in build.devices() if one.type == "cpu")
    monkeypatch.setattr(build, "devices", lambda: (own,))
    assert worker._chosen((own.name, own.name.lower(), own.name.title())) == (own,)


@pytest.mark.parametrize("text", ["h:x", "a:1:2", "http://h:1", ":1"])
def test_the_form_of_an_address_comes_before_the_build(
    cli: Callable[..., Done], tiny_gguf: Path, text: str
) -> None:
    done = cli("fit", tiny_gguf, "--rpc", text, "--json")
    assert done.exit_code == 2
    assert "no HOST:PORT" in done.json["error"]["message"]


def test_beyond_this_machine_only_when_it_is_meant(cli: Callable[..., Done]) -> None:
    for host in ("0.0.0.0", "10.0.0.7"):
        done = cli("worker", "--host", host)
        assert done.exit_code == 2
        assert "no password" in done.err
        assert "--trust-network" in done.err


@pytest.mark.parametrize("host", ["::1", "example.org", "300.1.1.1", ""])
def test_only_ipv4_addresses(cli: Callable[..., Done], host: str) -> None:
    done = cli("worker", "--host", host, "--json")
    assert done.exit_code == 2
    assert "IPv4" in done.json["error"]["message"]


def test_settings_name_workers_too(
    cli: Callable[..., Done], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm import config

    home.mkdir()
    (home / "config.toml").write_text('rpc = ["10.0.0.7:1", "gpu-box"]\n')
    assert config.load().rpc == ("10.0.0.7:1", "gpu-box")
    monkeypatch.setenv("LOCALLLM_RPC", "a:1, b:2")
    assert config.load().rpc == ("a:1", "b:2")


# --- with it ----------------------------------------------------------------------------------


@needs_rpc
def test_what_a_worker_says_of_itself(workers: list[Worker]) -> None:
    data = workers[0].data
    assert data["address"] == f"127.0.0.1:{data['port']}"
    assert data["protocol"].startswith("7.")
    (device,) = data["devices"]
    assert device["name"] == "CPU"
    available = psutil.virtual_memory().available
    assert 0.5 * available < device["memory_free_bytes"] < 2 * available


@needs_rpc
def test_the_plan_has_their_devices_and_real_memory(
    shell: Shell, workers: list[Worker], tiny_gguf: Path
) -> None:
    done = shell("fit", tiny_gguf, *over(workers), "--json")
    assert done.exit_code == 0, done.err
    devices = done.data["fits"][0]["plan"]["devices"]
    assert [one["name"] for one in devices] == [
        f"RPC{i}[{worker.address}]" for i, worker in enumerate(workers)
    ]
    total = psutil.virtual_memory().total
    for one in devices:
        assert 0 < one["free_bytes"] < total  # ggml alone would say that all of it is free
    assert devices[0]["n_layers"] > 0


@needs_rpc
def test_the_answer_is_the_local_one(shell: Shell, workers: list[Worker], tmp_path: Path) -> None:
    """F16 weights: the same kernels here and there."""
    path = tiny_llama(tmp_path / "t.gguf")
    words = ("chat", path, "hello", "--raw", "--temp", 0, "-n", 24, "--ctx", 256, "--json")
    here = shell(*words)
    there = shell(*words, *over(workers), "--require-gpu")
    assert there.exit_code == 0, there.err
    assert there.data["text"] == here.data["text"]
    assert len(there.data["text"]) > 0


@needs_rpc
def test_layers_over_two_workers_in_a_benchmark(
    shell: Shell, workers: list[Worker], tiny_gguf: Path
) -> None:
    done = shell("bench", tiny_gguf, "-p", 16, "-n", 4, "-r", 1, "-ts", "1/1,1/3", *over(workers),
                 "--json")  # fmt: skip
    assert done.exit_code == 0, done.err + done.out
    rows = done.data[0]["rows"]
    assert [row["failure"] for row in rows] == [None] * 4
    assert all(row["avg_ts"] > 0 for row in rows)
    assert "RPC0" in json.dumps(rows)
    assert "RPC1" in json.dumps(rows)


@needs_rpc
def test_served_over_workers_and_lost_in_the_middle(tmp_path: Path) -> None:
    worker = Worker()
    loop = tiny_chain(tmp_path / "l.gguf", {10: 97, 97: 98, 98: 99, 99: 97})
    command = [sys.executable, "-m", "localllm", "serve", str(loop), "--port", "0", "--ctx",
               "4096", "--json", "--rpc", worker.address]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["data"]["port"]
        assert _ask(port, max_tokens=6)["choices"][0]["text"] == "bcabca"
        busy = subprocess.run(
            [sys.executable, "-m", "localllm", "fit", str(loop), "--rpc", worker.address],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert busy.returncode == 6
        assert "busy with another client" in busy.stderr
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {"model": "l", "prompt": "a", "stream": True, "max_tokens": 4000}
        connection.request("POST", "/v1/completions", json.dumps(body))
        assert connection.getresponse().read(200)
        worker.kill_server()
        server.wait(30)
    finally:
        server.kill()
        _, said = server.communicate()
        again = _greets(worker)
        worker.stop()
    assert again  # its server was started anew
    assert server.returncode == 6
    assert f"the worker {worker.address} is lost" in said
    assert "Traceback" not in said
    assert "GGML" not in said


def _greets(worker: Worker) -> bool:
    """Whether it answers within half a minute."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            return bool(rpc.greet(worker.address, 1.0))
        except SourceFailed:
            time.sleep(0.2)
    return False


def _ask(port: int, **more: Any) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {"model": "l", "prompt": "a", **more}
    connection.request("POST", "/v1/completions", json.dumps(body))
    return json.loads(connection.getresponse().read())


@needs_rpc
def test_a_client_of_another_protocol_costs_a_moment(shell: Shell, tiny_gguf: Path) -> None:
    """Whatever it sends: the server goes on, or is started again."""
    worker = Worker()
    host, _, port = worker.address.partition(":")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096)):
        with socket.create_connection((host, int(port)), 5) as wire:
            wire.sendall(garbage)
    assert _greets(worker)
    assert shell("fit", tiny_gguf, "--rpc", worker.address).exit_code == 0
    status, out, err = worker.stop()
    assert status == 0
    assert out == ""
    assert "stopped" not in out + err  # in JSON mode nothing is said beside the document


@needs_rpc
def test_a_worker_ends_with_whoever_started_it() -> None:
    worker = Worker()
    (child,) = psutil.Process(worker.process.pid).children()
    worker.process.kill()
    worker.process.wait()
    child.wait(20)


@needs_rpc
def test_a_port_that_is_taken_and_a_device_that_is_not_there(cli: Callable[..., Done]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cli("worker", "--port", taken.getsockname()[1], "--json")
    assert done.exit_code == 1
    assert done.json["error"]["kind"] == "port_taken"
    unknown = cli("worker", "--device", "CUDA9", "--json")
    assert unknown.exit_code == 2
    assert "there are CPU" in unknown.json["error"]["hint"]
