"""A server under thousands of mixed requests, many of them faulty: nothing leaks, nothing is wrong.

    python benchmarks/serve_soak.py MODEL.gguf [MODEL.gguf ...] [--requests 10000] [--clients 48]

Each of some prompts is asked alone first, greedily, with the likeliest tokens at each place. Then
clients ask them over both APIs, whole and streamed, some reading slowly; others leave in the middle
of an answer or of their own request, send what is no JSON or no HTTP, too much, or for a model that
is not there. Every answer that came whole is compared with the one given alone: where they part,
two tokens must have been equally likely there (batches of other shapes add in another order), or
it counts as wrong. Then --connections clients ask at the same moment. At the end the server must
have nobody at work, and as many threads and open files as at the beginning.

Printed: what was asked and how it ended, wrong answers, threads, open files and memory before and
after. Status 1 if anything is wrong or leaked, or if memory grew by more than --growth in the
second half. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

SLICES = 8  # of the requests; memory is looked at after each
# Of log-probability: as far as the order of additions may move a logit of a model of floats.
# Quantized weights round activations to 8 bits, which makes more of it: --tie 1.
TIE = 0.05
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then"]
KINDS = {
    "chat": 20, "stream": 20, "ollama": 15, "slow": 6, "several": 4, "leaves": 14, "vanishes": 5,
    "half": 4, "no json": 4, "no http": 2, "unknown": 3, "too large": 1, "other": 2,
}  # fmt: skip


@dataclass
class Prompt:
    """What is asked, and what is answered to it alone."""

    model: str
    text: str
    n_tokens: int
    answer: str = ""
    tokens: list[str] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # between the two likeliest at each place
    tie: float = TIE

    def judge(self, answer: str) -> str:
        """ "right", "tie" or "wrong"."""
        if answer == self.answer:
            return "right"
        pairs = zip(answer, self.answer, strict=False)
        n_same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        place = 0
        for token, gap in zip(self.tokens, self.gaps, strict=True):
            if gap < self.tie and place <= n_same:
                return "tie"
            place += len(token)
            if place > n_same:
                break
        return "wrong"


@dataclass
class Standing:
    """What the server holds."""

    threads: int
    files: int
    rss_bytes: int


def standing(pid: int) -> Standing:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    rss = int(status["VmRSS"].split()[0]) * 1024
    return Standing(int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd")), rss)  # noqa: PTH208


class Client:
    """Asks one server over raw connections, so that it can misbehave."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self.port, self.rng = port, rng

    async def open(self, body: bytes | dict[str, Any], path: str, limit: int = 1 << 16) -> Any:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=limit)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n"
            "Connection: close\r\n\r\n"
        )
        writer.write(head.encode() + raw)
        return reader, writer

    async def ask(self, body: bytes | dict[str, Any], path: str, pause: float = 0.0) -> Any:
        """Status and body, however they were framed."""
        reader, writer = await self.open(body, path, 1024 if pause else 1 << 16)
        pieces = []
        try:
            while piece := await reader.read(512 if pause else 1 << 16):
                pieces.append(piece)
                await asyncio.sleep(pause)
        except ConnectionError:
            pass  # it was told to hang up while we were still writing
        finally:
            writer.close()
        head, _, rest = b"".join(pieces).partition(b"\r\n\r\n")
        chunked = b"transfer-encoding: chunked" in head.lower()
        return int(head[9:12] or 0), _unchunked(rest) if chunked else rest


def _unchunked(raw: bytes) -> bytes:
    found = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        n = int(size, 16)
        found, raw = found + raw[:n], raw[n + 2 :]
    return found


def body_of(prompt: Prompt, **more: Any) -> dict[str, Any]:
    return {
        "model": prompt.model, "messages": [{"role": "user", "content": prompt.text}],
        "temperature": 0, "max_tokens": prompt.n_tokens, **more,
    }  # fmt: skip


def streamed(raw: bytes) -> str:
    text = ""
    for line in raw.decode().splitlines():
        if line.startswith("data: {"):
            chunk = json.loads(line[6:])
            text += chunk["choices"][0]["delta"].get("content", "") if chunk["choices"] else ""
    return text


class Soak:
    """Everything that is asked, and what came of it."""

    def __init__(self, port: int, prompts: list[Prompt], seed: int) -> None:
        self.rng = random.Random(seed)
        self.prompts = prompts
        self.client = Client(port, self.rng)
        self.found: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def alone(self) -> None:
        for prompt in self.prompts:
            body = body_of(prompt, logprobs=True, top_logprobs=2)
            status, raw = await self.client.ask(body, "/v1/chat/completions")
            assert status == 200, raw
            (choice,) = json.loads(raw)["choices"]
            prompt.answer = choice["message"]["content"]
            for one in choice["logprobs"]["content"]:
                first, second = one["top_logprobs"]
                prompt.tokens.append(one["token"])
                prompt.gaps.append(first["logprob"] - second["logprob"])

    async def run(self, n_requests: int, n_clients: int) -> None:
        kinds = self.rng.choices(list(KINDS), list(KINDS.values()), k=n_requests)

        async def work() -> None:
            while kinds:
                kind = kinds.pop()
                self.found[kind] += 1
                try:
                    async with asyncio.timeout(300):
                        await self.one(kind, self.rng.choice(self.prompts))
                except (TimeoutError, ConnectionError, ValueError, AssertionError) as error:
                    self.wrong.append(f"{kind}: {type(error).__name__} {error}")

        await asyncio.gather(*(work() for _ in range(n_clients)))

    def compare(self, kind: str, prompt: Prompt, status: int, text: str) -> None:
        verdict = prompt.judge(text) if status == 200 else f"status {status}"
        self.found[f"= {verdict}"] += 1
        if verdict not in ("right", "tie"):
            self.wrong.append(f"{kind}: {verdict}: {text[:80]!r} for {prompt.answer[:80]!r}")

    def expect(self, kind: str, status: int, *wanted: int) -> None:
        if status not in wanted:
            self.wrong.append(f"{kind}: status {status}")

    async def one(self, kind: str, prompt: Prompt) -> None:
        ask, chat = self.client.ask, "/v1/chat/completions"
        if kind == "chat":
            status, raw = await ask(body_of(prompt), chat)
            text = json.loads(raw)["choices"][0]["message"]["content"] if status == 200 else ""
            self.compare(kind, prompt, status, text)
        elif kind in ("stream", "slow"):
            body = body_of(prompt, stream=True)
            status, raw = await ask(body, chat, 0.02 if kind == "slow" else 0.0)
            self.compare(kind, prompt, status, streamed(raw))
        elif kind == "ollama":
            options = {"temperature": 0, "num_predict": prompt.n_tokens}
            status, raw = await ask(body_of(prompt, options=options), "/api/chat")
            lines = [json.loads(line) for line in raw.splitlines()]
            text = "".join(line["message"]["content"] for line in lines if "message" in line)
            self.compare(kind, prompt, status, text)
        elif kind == "several":
            status, raw = await ask(body_of(prompt, n=2), chat)
            for choice in json.loads(raw).get("choices", ()):
                self.compare(kind, prompt, status, choice["message"]["content"])
        elif kind == "unknown":
            self.expect(kind, (await ask(body_of(prompt) | {"model": "nobody"}, chat))[0], 404)
        elif kind == "no json":
            raw = self.rng.choice([b"{", b'{"model": 7}', b"\xff\xfe", b"[" * 5000, b""])
            self.expect(kind, (await ask(raw, chat))[0], 400)
        elif kind == "too large":
            self.expect(kind, (await ask(b" " * (3 << 20), chat))[0], 413, 0)
        elif kind == "other":
            path = self.rng.choice(["/v1/nothing", "/api/show", "/v1/models"])
            self.expect(kind, (await ask(b"{}", path))[0], 400, 404, 405)
        else:
            await self.faulty(kind, prompt)

    async def faulty(self, kind: str, prompt: Prompt) -> None:
        """Those who hang up."""
        if kind == "no http":
            _, writer = await asyncio.open_connection("127.0.0.1", self.client.port)
            writer.write(self.rng.randbytes(200))
        elif kind == "half":
            _, writer = await asyncio.open_connection("127.0.0.1", self.client.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 900\r\n\r\n{")
            await asyncio.sleep(self.rng.random() * 0.2)
        else:
            body = body_of(prompt, stream=self.rng.random() < 0.7, max_tokens=200)
            reader, writer = await self.client.open(body, "/v1/chat/completions")
            if kind == "leaves":
                await reader.read(100)
                await asyncio.sleep(self.rng.random() * 0.2)
        if self.rng.random() < 0.5:
            writer.transport.abort()  # a reset and not a farewell
        writer.close()

    async def rush(self, n: int) -> None:
        """So many at the same moment: each gets its answer, or is told to come back."""
        prompts = [self.rng.choice(self.prompts) for _ in range(n)]

        async def one(prompt: Prompt) -> None:
            status, raw = await self.client.ask(
                body_of(prompt, stream=True), "/v1/chat/completions"
            )
            if status == 503:
                self.found["= come back"] += 1
            else:
                self.compare("rush", prompt, status, streamed(raw))

        await asyncio.gather(*(one(prompt) for prompt in prompts))


async def settled(client: Client) -> bool:
    """Whether nobody is at work any more, within a minute."""
    for _ in range(300):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        busy = [
            float(line.rpartition(" ")[2]) for line in text.splitlines()
            if line.startswith(("localllm_running", "localllm_waiting"))
        ]  # fmt: skip
        if not any(busy) and "\nlocalllm_requests_open 1\n" in text:
            return True
        await asyncio.sleep(0.2)
    return False


async def scene(options: argparse.Namespace, port: int, pid: int, names: list[str]) -> Any:
    rng = random.Random(options.seed)
    prompts = [
        Prompt(
            name,
            " ".join(rng.choices(WORDS, k=rng.randint(2, 40))),
            rng.randint(4, 32),
            tie=options.tie,
        )
        for name in names
        for _ in range(options.prompts)
    ]
    soak = Soak(port, prompts, options.seed)
    await soak.alone()
    # After a tenth its caches and threads are there, and the rush has widened all buffers.
    n_warm = max(options.clients, options.requests // 10)
    await soak.run(n_warm, options.clients)
    await soak.rush(options.connections)
    quiet = await settled(soak.client)
    found, begun = [standing(pid)], time.perf_counter()
    for _ in range(SLICES):
        await soak.run((options.requests - n_warm) // SLICES, options.clients)
        found.append(standing(pid))
    took = time.perf_counter() - begun
    await soak.rush(options.connections)
    quiet = await settled(soak.client) and quiet
    await asyncio.sleep(0.5)
    return soak, [*found, standing(pid)], quiet, took


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--connections", type=int, default=2000, help="at the same moment")
    parser.add_argument("--prompts", type=int, default=24, help="different ones, for each model")
    parser.add_argument("--tie", type=float, default=TIE, help="gap of equally likely tokens")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--growth", type=float, default=32.0, help="MiB that memory may grow by in the second half"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    command = [
        sys.executable, "-m", "localllm", "serve", *map(str, options.models), "--port", "0",
        "--json", "--progress", "none", "--slots", str(options.slots), "--ctx", str(options.ctx),
        "--threads", str(options.threads), "--max-body", "1", "--max-waiting", "1000",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    if not ready["ok"]:
        raise SystemExit(ready["error"]["message"])
    try:
        data = ready["data"]
        soak, stood, quiet, took = asyncio.run(
            scene(options, data["port"], data["pid"], data["models"])
        )
    finally:
        process.terminate()
        status = process.wait(60)
    rss = [one.rss_bytes / 2**20 for one in stood]
    before, after, grew = stood[0], stood[-1], rss[-1] - rss[len(rss) // 2]
    result = {
        "asked": dict(sorted(soak.found.items())), "wrong": soak.wrong[:20],
        "n_wrong": len(soak.wrong), "quiet": quiet, "took_s": took, "exit_status": status,
        "threads": [before.threads, after.threads], "files": [before.files, after.files],
        "rss_mib": [round(one, 1) for one in rss], "grew_mib": grew,
    }  # fmt: skip
    good = (
        not soak.wrong and quiet and status == 0 and after.threads <= before.threads
        and after.files <= before.files and grew <= options.growth
    )  # fmt: skip
    print(json.dumps(result | {"good": good}, indent=None if options.json else 2))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
