"""/api/pull, /api/delete, /api/copy, /api/create: the upkeep of models, where it is allowed.

Downloads and new models are made by this program's own commands in a process of their own: what
they hold and how they fail is then theirs, and a client who leaves ends them like a Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.errors import ExitCode, LocalLLMError, ModelNotFound
from localllm.refs import ModelRef
from localllm.registry import Model, Registry
from localllm.registry.resolve import pick
from localllm.serve.ollama.presets import NO_FILES, modelfile_of
from localllm.serve.ollama.schemas import CopyBody, CreateBody, NameBody
from localllm.serve.ollama.words import digest_of
from localllm.serve.resident.catalog import Served
from localllm.serve.service import Service
from localllm.serve.web.problems import Failure, RequestProblem
from localllm.serve.web.streams import NDJSON, LineStream, line

_SOURCES = ("hf.co", "huggingface.co", "registry.ollama.ai")
_AT_ONCE = 2  # downloads
_LAST_WORDS_S = 10.0
_LINE_BYTES = 1 << 20


class Manager:
    """What the upkeep needs. `allowed` false: every one of its requests is refused."""

    def __init__(self, service: Service, *, allowed: bool) -> None:
        self.service = service
        self.allowed = allowed
        self.room = asyncio.Semaphore(_AT_ONCE)

    @property
    def registry(self) -> Registry:
        return self.service.desk.catalog.registry

    def check(self) -> None:
        if not self.allowed:
            raise RequestProblem(
                "this server's models are not managed over its API (--manage)",
                status=403, code="not_allowed",
            )  # fmt: skip


class Pull:
    """Downloads a model from a source that the server knows; never a path, never any URL: it may
    reach what its clients may not."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def answer(self, request: Request) -> Response:
        self._manager.check()
        body = await self._manager.service.bodies.parse(request, NameBody)
        if body.insecure:
            raise RequestProblem("insecure downloads are not made here", "insecure")
        reference = remote_reference(body.model)
        lines = _run(self._manager, ["pull", "--", str(reference)])
        return await _answer(lines, stream=body.stream is not False)


def remote_reference(text: str) -> ModelRef:
    """`text` as Ollama's clients mean it: a bare name is one of Ollama's library.

    Raises RequestProblem for what is no name at a known source, InvalidReference.
    """
    ref = ModelRef.parse(text)
    if ref.scheme == "local":
        ref = ModelRef.parse(f"ollama:{text}")
    if ref.scheme not in ("hf", "ollama", "pypi"):
        raise RequestProblem(f"{text!r} is not pulled over the API: hf:, ollama: or pypi:", "model")
    host = ref.name.partition("/")[0]
    elsewhere = ref.scheme == "ollama" and "/" in ref.name and ("." in host or ":" in host)
    if elsewhere and host not in _SOURCES:
        raise RequestProblem(f"{host} is no source that this server pulls from", "model")
    return ref


class Delete:
    """Removes a model, or a second name. What is being answered with it goes on."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def answer(self, request: Request) -> Response:
        self._manager.check()
        body = await self._manager.service.bodies.parse(request, NameBody)
        await self._manager.service.work(lambda: self._remove(body.model))
        return Response(status_code=200)

    def _remove(self, name: str) -> None:
        registry, catalog = self._manager.registry, self._manager.service.desk.catalog
        models = registry.models()
        short = name.removesuffix(":latest")
        for text in dict.fromkeys((name, short)):
            alias = next(
                (a for m in models for a in m.aliases if a.casefold() == text.casefold()), None
            )
            if alias is not None:
                registry.remove_alias(alias)
                break
        else:
            model = _own(catalog.find(name))
            with suppress(LocalLLMError):
                self._manager.service.desk.unload(name)
            registry.remove(pick(models, ModelRef.parse(model.name)))
        catalog.forget()


def _own(served: Served) -> Model:
    """The registry's model of that very name. The operator's names (--alias, a path) are theirs:
    what lies behind one was not asked for."""
    model = served.model
    if model.id is None or served.name.casefold() != model.name.casefold():
        raise RequestProblem(
            f"{served.name} is a name that this server was started with; it is not removed here",
            "model",
        )
    return model


class Copy:
    """Gives a model a second name."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def answer(self, request: Request) -> Response:
        self._manager.check()
        body = await self._manager.service.bodies.parse(request, CopyBody)
        await self._manager.service.work(lambda: self._copy(body))
        return Response(status_code=200)

    def _copy(self, body: CopyBody) -> None:
        catalog = self._manager.service.desk.catalog
        served = catalog.find(body.source)
        if served.model.id is None:
            raise ModelNotFound(f"{body.source} is not in the registry")
        if served.adapters != served.model.attached:
            raise RequestProblem(
                f"{body.source} is a name that this server was started with, with adapters; "
                "it cannot be copied", "source",
            )  # fmt: skip
        self._manager.registry.set_alias(body.destination, served.model)
        catalog.forget()


class Create:
    """Makes a preset of a model that is here: its system message, template, parameters."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def answer(self, request: Request) -> Response:
        self._manager.check()
        body = await self._manager.service.bodies.parse(request, CreateBody)
        text = await self._manager.service.work(
            lambda: modelfile_of(body, self._manager.service.desk.catalog)
        )
        lines = _created(self._manager, body.model, text)
        return await _answer(lines, stream=body.stream is not False)


class Blobs:
    """Files of the client's own, for /api/create: refused in words that say what to do."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def answer(self, request: Request) -> Response:
        self._manager.check()
        await self._manager.service.bodies.refuse(request, RequestProblem(NO_FILES, "files"))


class Push:
    """Refused."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def answer(self, request: Request) -> Response:
        raise RequestProblem("models are not published from here: hf upload, or ollama push")


async def _created(manager: Manager, name: str, text: str) -> AsyncGenerator[bytes, None]:
    with tempfile.TemporaryDirectory(prefix="localllm-") as folder:
        path = Path(folder) / "Modelfile"
        path.write_text(text, encoding="utf-8")
        async for one in _run(manager, ["create", "-f", str(path), "--", name]):
            yield one


async def _answer(lines: AsyncGenerator[bytes, None], *, stream: bool) -> Response:
    """What failed is the stream's last line; without a stream it is a status."""
    if stream:
        return LineStream(_told(lines), NDJSON)
    last = b""
    async for one in lines:
        last = one
    return JSONResponse(json.loads(last))


async def _told(lines: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(lines):
            async for one in lines:
                yield one
    except RequestProblem as error:
        yield line(Failure.of(error).ollama())


# --- a command of this program's own -------------------------------------------------------


async def _run(manager: Manager, words: Sequence[str]) -> AsyncGenerator[bytes, None]:
    """Its progress as Ollama's lines; the last says success. Raises RequestProblem."""
    yield line({"status": f"{words[0]}ing" if words[0] == "pull" else "working"})
    async with manager.room:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "localllm", words[0], "--json", "--progress", "json", *words[1:],
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, limit=_LINE_BYTES,
        )  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        answer = asyncio.create_task(process.stdout.read())
        try:
            async for status in _progress(process.stderr):
                yield line(status)
            document = json.loads(await answer or b"{}")
            await process.wait()
        except ValueError:
            document = {}
        finally:
            await _ended(process)
            answer.cancel()
    manager.service.desk.catalog.forget()
    if not document.get("ok"):
        error = document.get("error") or {"message": f"{words[0]} failed"}
        usage = process.returncode == ExitCode.USAGE
        raise RequestProblem(str(error["message"]), status=400 if usage else 500)
    yield line({"status": "success"})


async def _progress(stream: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    while raw := await stream.readline():
        with suppress(ValueError, TypeError, AttributeError):
            event = json.loads(raw)
            label = str(event["label"])
            found = {"status": label, "digest": f"sha256:{digest_of(label)}"}
            if event["total"]:
                found |= {"total": event["total"], "completed": event["done"]}
            yield found


async def _ended(process: asyncio.subprocess.Process) -> None:
    """A process whose client left is interrupted: what has arrived is kept for the next try."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.terminate()
        else:
            process.send_signal(signal.SIGINT)
    try:
        await asyncio.wait_for(process.wait(), _LAST_WORDS_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
