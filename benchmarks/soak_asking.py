"""Who asks in benchmarks/serve_soak.py, how, and whether what comes back is right."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

# Of log-probability: as far as the order of additions may move a logit of a model of floats.
# Quantized weights round activations to 8 bits, which makes more of it: --tie 1.
TIE = 0.05
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then"]
KINDS = {
    "chat": 20, "stream": 20, "ollama": 15, "slow": 6, "several": 4, "leaves": 14, "vanishes": 5,
    "half": 4, "no json": 4, "no http": 2, "unknown": 3, "too large": 1, "other": 2, "schema": 12,
    "no schema": 2,
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

    async def metrics(self) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        try:
            return (await reader.read()).decode()
        finally:
            writer.close()


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


def schema_of(rng: random.Random) -> dict[str, Any]:
    """A small object, hardly ever the same twice."""
    low = rng.randrange(-1000, 1000)
    properties = {
        "word": {"enum": rng.sample(WORDS, 3)},
        "n": {"type": "integer", "minimum": low, "maximum": low + rng.randrange(50)},
    }
    return {
        "type": "object", "properties": properties, "required": list(properties),
        "additionalProperties": False,
    }  # fmt: skip


def satisfies(text: str, schema: dict[str, Any]) -> bool:
    word, n = schema["properties"]["word"], schema["properties"]["n"]
    found = json.loads(text)
    return (
        set(found) == {"word", "n"} and found["word"] in word["enum"]
        and isinstance(found["n"], int) and n["minimum"] <= found["n"] <= n["maximum"]
    )  # fmt: skip


def format_of(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


def streamed(raw: bytes) -> str:
    text = ""
    for line in raw.decode().splitlines():
        if line.startswith("data: {"):
            chunk = json.loads(line[6:])
            if "error" in chunk:
                return f"error: {chunk['error']['message']}"
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
        elif kind == "schema":
            await self.schema(prompt)
        elif kind == "no schema":
            bad = self.rng.choice(
                [{"type": "word"}, {"$ref": "#/none"}, {"pattern": "(?=a)"}, False]
            )
            self.expect(kind, (await ask(body_of(prompt, **format_of(bad)), chat))[0], 400)
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

    async def schema(self, prompt: Prompt) -> None:
        """What ended of itself keeps to the schema."""
        schema = schema_of(self.rng)
        body = body_of(prompt, max_tokens=64, **format_of(schema))
        status, raw = await self.client.ask(body, "/v1/chat/completions")
        self.expect("schema", status, 200)
        (choice,) = json.loads(raw)["choices"]
        text = choice["message"]["content"]
        ended = choice["finish_reason"] == "stop"
        self.found["= kept to its schema" if ended else "= cut off"] += 1
        if ended and not satisfies(text, schema):
            self.wrong.append(f"schema: {text!r} for {schema}")

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
            if self.rng.random() < 0.3:
                body |= format_of({"type": "array", "items": schema_of(self.rng)})
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
