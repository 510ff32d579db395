"""The ends that benchmarks/serving_load.py asks: servers over HTTP (llama-server, and
`localllm serve`), and our scheduler in a process of its own. All answer `ask(requests, clients)`
with what was measured.

`python serving_clients.py OPTIONS_JSON` is that process: a JSON list of requests a line in, a
JSON measurement a line out.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Asked:
    prompt: str
    n_gen: int


@dataclass
class Measured:
    """One round. `first_s` from asking to the first text, `between_s` between pieces of text."""

    total_s: float = 0.0
    cpu_s: float = 0.0  # of the peer's process; 0 where the system does not tell
    n_tokens: int = 0
    n_prompt_tokens: int = 0
    first_s: list[float] = field(default_factory=list)
    between_s: list[float] = field(default_factory=list)


class Peer(Protocol):
    name: str

    def ask(self, requests: list[Asked], clients: int) -> Measured: ...

    def peak_bytes(self) -> int: ...

    def close(self) -> None: ...


def peak_of(pid: int) -> int:
    """The most a process ever had resident; Linux only, 0 elsewhere."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a process used; Linux only, 0 elsewhere."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- over HTTP ---------------------------------------------------------------------------


class HttpPeer:
    """An OpenAI-compatible server, asked at /completions with `stream`."""

    def __init__(
        self, name: str, url: str, process: subprocess.Popen[bytes] | None, model: str = "model"
    ) -> None:
        self.name, self.process, self.model = name, process, model
        parts = urlsplit(url)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.path = parts.path.rstrip("/") + "/completions"

    @classmethod
    def start(cls, options: argparse.Namespace, environment: dict[str, str]) -> HttpPeer:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        n_ctx = options.ctx * options.slots
        command = [
            options.llama_server, "-m", str(options.model), "-c", str(n_ctx), "-np",
            str(options.slots), "-t", str(options.threads), "-tb", str(options.threads),
            "-b", "2048", "-ub", "512", "--host", "127.0.0.1", "--port", str(port),
            "-no-kvu" if options.split else "-kvu", *options.server_arg,
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        peer = cls("llama-server", f"http://127.0.0.1:{port}/v1", process)
        peer.wait()
        return peer

    @classmethod
    def ours(cls, options: argparse.Namespace, environment: dict[str, str]) -> HttpPeer:
        """`localllm serve`, with the same slots, context and threads."""
        command = [
            sys.executable, "-m", "localllm", "serve", str(options.model), "--port", "0", "--json",
            "--progress", "none", "--slots", str(options.slots), "--ctx", str(options.ctx),
            "--threads", str(options.threads), "--max-waiting", "100000",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        if not ready["ok"]:
            raise SystemExit(ready["error"]["message"])
        data = ready["data"]
        return cls("localllm serve", f"{data['url']}/v1", process, data["models"][0])

    def wait(self) -> None:
        for _ in range(600):
            if self.process is not None and self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended with status {self.process.returncode}")
            try:
                with socket.create_connection(self.address, 5) as one:
                    one.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                    if b" 200 " in one.recv(64):
                        return
            except OSError:
                pass
            time.sleep(0.2)
        raise SystemExit(f"{self.name} did not start")

    def ask(self, requests: list[Asked], clients: int) -> Measured:
        """One thread for all clients: their own work must not weigh on the machine."""
        waiting, found = deque(requests), Measured()
        before = cpu_of(self.process.pid) if self.process else 0.0
        with selectors.DefaultSelector() as selector:
            begun = time.perf_counter()
            for _ in range(min(clients, len(waiting))):
                self._connect(selector, waiting.popleft())
            while selector.get_map():
                for key, _ in selector.select():
                    if key.data.read(key.fileobj, found):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
                        if waiting:
                            self._connect(selector, waiting.popleft())
            found.total_s = time.perf_counter() - begun
        found.cpu_s = cpu_of(self.process.pid) - before if self.process else 0.0
        return found

    def _connect(self, selector: selectors.BaseSelector, asked: Asked) -> None:
        body = json.dumps(
            {
                "model": self.model, "prompt": asked.prompt, "max_tokens": asked.n_gen,
                "stream": True,
                "ignore_eos": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95,
                "min_p": 0.05, "stream_options": {"include_usage": True},
            }
        ).encode()  # fmt: skip
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        reply = _Reply(time.perf_counter())
        connection = socket.create_connection(self.address)
        connection.sendall(head.encode() + body)
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, reply)

    def peak_bytes(self) -> int:
        return peak_of(self.process.pid) if self.process else 0

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


class _Reply:
    """One stream of server-sent events, looked at as little as can be."""

    def __init__(self, asked_at: float) -> None:
        self.asked_at, self.last_at = asked_at, 0.0
        self.tail = b""

    def read(self, connection: Any, found: Measured) -> bool:
        """Take what has come; True at the end."""
        data = connection.recv(1 << 16)
        now = time.perf_counter()
        if data:
            self.tail = (self.tail + data)[-4096:]
            if b"data: {" in data:
                if not self.last_at:
                    found.first_s.append(now - self.asked_at)
                else:
                    found.between_s.append(now - self.last_at)
                self.last_at = now
            return False
        at = self.tail.rfind(b'"usage":{')
        if at < 0:
            raise SystemExit(
                "the server did not answer: " + self.tail[-300:].decode(errors="replace")
            )
        usage, _ = json.JSONDecoder().raw_decode(self.tail[at + 8 :].decode(errors="replace"))
        found.n_tokens += usage["completion_tokens"]
        found.n_prompt_tokens += usage["prompt_tokens"]
        return True


# --- in a process of its own ---------------------------------------------------------------


class InProcess:
    name = "localllm"

    def __init__(self, options: argparse.Namespace, environment: dict[str, str]) -> None:
        wanted = {
            "model": str(options.model), "slots": options.slots, "ctx": options.ctx,
            "threads": options.threads, "unified": not options.split, "chunk": options.chunk,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(wanted)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._reply()  # ready

    def ask(self, requests: list[Asked], clients: int) -> Measured:
        assert self.process.stdin is not None
        before = cpu_of(self.process.pid)
        line = json.dumps({"clients": clients, "requests": [asdict(one) for one in requests]})
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        found = Measured(**self._reply())
        found.cpu_s = cpu_of(self.process.pid) - before
        return found

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("our own process ended")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def peak_bytes(self) -> int:
        return peak_of(self.process.pid)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    from localllm.engine.context import Context
    from localllm.engine.model import Model
    from localllm.engine.options import ContextOptions
    from localllm.engine.scheduler import Scheduler, SchedulerOptions

    wanted = json.loads(sys.argv[1])
    context_options = ContextOptions(
        n_ctx=wanted["ctx"] * wanted["slots"],
        n_seq_max=wanted["slots"],
        n_outputs_max=wanted["slots"],
        n_threads=wanted["threads"],
        kv_unified=wanted["unified"],
    )
    with (
        Model.load(Path(wanted["model"])) as model,
        Context(model, context_options) as context,
        Scheduler(
            context, SchedulerOptions(max_waiting=1 << 20, chunk=wanted["chunk"])
        ) as scheduler,
    ):
        print("{}", flush=True)
        for line in sys.stdin:
            work = json.loads(line)
            asked = deque(Asked(**one) for one in work["requests"])
            print(json.dumps(asdict(answered(scheduler, asked, work["clients"]))), flush=True)


def answered(scheduler: Any, waiting: deque[Asked], clients: int) -> Measured:
    from localllm.engine.scheduler import Event, Request
    from localllm.engine.template import encode_prompt
    from localllm.generation import Sampling

    found, ended = Measured(), queue.SimpleQueue[Any]()

    def submit(asked: Asked) -> None:
        asked_at, last_at = time.perf_counter(), 0.0

        def on_event(event: Event) -> None:
            nonlocal last_at
            if event.text:
                now = time.perf_counter()
                if last_at:
                    found.between_s.append(now - last_at)
                else:
                    found.first_s.append(now - asked_at)
                last_at = now
            if event.last:
                ended.put(event)

        prompt = encode_prompt(scheduler.tokenizer, asked.prompt)
        sampling = Sampling(max_tokens=asked.n_gen)
        scheduler.submit(Request(prompt, sampling, ignore_eog=True), on_event)

    begun, n_open = time.perf_counter(), 0
    for _ in range(min(clients, len(waiting))):
        submit(waiting.popleft())
        n_open += 1
    while n_open:
        event = ended.get()
        if event.error is not None:
            raise event.error
        found.n_tokens += event.accounting.completion_tokens
        found.n_prompt_tokens += event.accounting.prompt_tokens
        if waiting:
            submit(waiting.popleft())
        else:
            n_open -= 1
    found.total_s = time.perf_counter() - begun
    return found


if __name__ == "__main__":
    serve()
