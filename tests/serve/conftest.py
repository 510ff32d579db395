"""Real servers: the program in a process of its own, on a port of its own, with tiny models."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from localllm.registry import Registry
from tests.conftest import arrival
from tests.support.tiny_models import CHATML, tiny_bert, tiny_chain, tiny_llama

# ChatML that tells of tools as Hermes and Qwen do.
TOOL_TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools> call with <tool_call>{% endif %}"
    + (
        CHATML.replace(
            "message['content']", "(message['content'] or message['tool_calls'] | tojson)"
        )
    )
)

# What the model `hi` answers to whatever it is asked, and then ends.
HI = "Hi, you!"


@dataclass
class Reply:
    """One answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """NDJSON."""
        return [json.loads(line) for line in self.body.splitlines() if line.strip()]

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events, [DONE] as None."""
        found = []
        for block in self.body.decode().split("\n\n"):
            for line in block.splitlines():
                if line.startswith("data: "):
                    data = line[6:]
                    found.append(None if data == "[DONE]" else json.loads(data))
        return found


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    home: Path
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, *, timeout: float = 60, **headers: str
    ) -> Reply:
        """`body` as JSON unless it is bytes; headers with _ for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, raw, named)
            answer = connection.getresponse()
            return Reply(
                answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
            )
        finally:
            connection.close()

    def post(self, path: str, body: Any = None, **more: Any) -> Reply:
        return self.ask("POST", path, body, **more)

    def get(self, path: str, **more: Any) -> Reply:
        return self.ask("GET", path, **more)

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        found = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith((name + "{", name + " ")):
                found += float(line.rpartition(" ")[2])
        return found

    def wait(self, condition: Any, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come to that"
            assert self.process.poll() is None, "the server has ended"
            time.sleep(0.05)

    def stop(self, sign: int = signal.SIGTERM) -> tuple[int, str]:
        """Ask it to end; exit status and what it said."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


def start(home: Path, *args: object, env: Mapping[str, str] | None = None) -> Server:
    """`localllm serve --port 0 --json ARGS`, once it answers."""
    command = [sys.executable, "-m", "localllm", "serve", "--port", "0", "--json",
               "--progress", "none", *map(str, args)]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "LOCALLLM_HOME": str(home), **(env or {})},
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.stderr.read())
    document = json.loads(line)
    if not document["ok"]:
        process.wait(30)
        raise AssertionError(document["error"])
    return Server(process, document["data"]["port"], home, document)


def chain(text: str) -> dict[int, int]:
    """Transitions that make `tiny_chain` answer `text`, whose characters differ, and end."""
    assert len(set(text)) == len(text)
    codes = [10, *text.encode()]  # the template ends in a new line
    return dict(itertools.pairwise(codes))


def add(registry: Registry, name: str, path: Path, **more: Any) -> None:
    """Register a GGUF under the plain name `name`."""
    from dataclasses import replace

    made = arrival(name, path, file_name=f"{name}.gguf", **more)
    registry.add(replace(made, name=name))


def fill(home: Path, folder: Path) -> None:
    """A registry with `tiny` (random weights), `tools` (the same, knows of tools), `hi` (answers
    HI), `loop` (never ends: abcabc...) and `bert` (vectors)."""
    registry = Registry(home)
    folder.mkdir(parents=True, exist_ok=True)
    add(registry, "tiny", tiny_llama(folder / "t.gguf"), architecture="llama", file_type="F16")
    with_tools = tiny_llama(folder / "w.gguf", chat_template=TOOL_TEMPLATE)
    add(registry, "tools", with_tools, architecture="llama")
    add(registry, "hi", tiny_chain(folder / "h.gguf", chain(HI)), architecture="llama")
    loop = {10: 97, 97: 98, 98: 99, 99: 97}
    add(registry, "loop", tiny_chain(folder / "l.gguf", loop), architecture="llama")
    add(registry, "bert", tiny_bert(folder / "b.gguf"), architecture="bert")
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def served_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that the session's server reads. Do not change it."""
    folder = tmp_path_factory.mktemp("serve")
    fill(folder / "home", folder / "staged")
    return folder / "home"


@pytest.fixture(scope="session")
def session_server(served_home: Path) -> Iterator[Server]:
    server = start(served_home, "--ctx", "512", "--slots", "4", "--threads", "1")
    yield server
    status, said = server.stop()
    assert (status, said) == (0, "")


@pytest.fixture
def server(session_server: Server) -> Server:
    """A server with the models of `fill`, the same for all tests. Its state stays."""
    assert session_server.process.poll() is None, "the server has ended"
    return session_server


@pytest.fixture
def own_home(tmp_path: Path) -> Path:
    """The same models, for a test that changes them."""
    fill(tmp_path / "own", tmp_path / "staged")
    return tmp_path / "own"
