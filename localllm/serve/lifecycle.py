"""A server's life: bind, load, answer, and end without cutting anybody off too early."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn

from localllm.engine.scheduler import ModelPool
from localllm.errors import ExitCode
from localllm.registry import Registry
from localllm.serve.answering.feed import Courier
from localllm.serve.app import build
from localllm.serve.listener import BACKLOG, allow_files, bind
from localllm.serve.log import Log
from localllm.serve.ollama.manage import Manager
from localllm.serve.options import ServeOptions
from localllm.serve.resident.catalog import Catalog
from localllm.serve.resident.desk import Desk
from localllm.serve.resident.lending import DeskLender
from localllm.serve.resident.planner import ResidentPlanner
from localllm.serve.resident.resident import Resident
from localllm.serve.service import Service
from localllm.serve.web.bodies import Bodies
from localllm.serve.web.boundary import Boundary
from localllm.serve.web.connection import Connection
from localllm.ui import Progress

# What a stream has after its request was cancelled, to say so and end.
_LAST_WORDS_S = 3.0
# The event loop and the schedulers' threads share the interpreter's lock. One that waits for it
# asks the holder to let go after this long; Python's own 5 ms would be most of a token.
_SWITCH_S = 0.0005


@dataclass(frozen=True)
class Ready:
    """Where a server listens. `models` are in memory already."""

    address: str
    port: int
    url: str
    models: tuple[str, ...]
    needs_key: bool
    pid: int


OnReady = Callable[[Ready], None]


def serve(
    options: ServeOptions,
    registry: Registry,
    on_ready: OnReady,
    *,
    progress: Progress,
    verbose: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends the process at once.

    Streams that run when the first comes may end within `grace_s`. Raises PortTaken, and what
    loading a model of `preload` raises.
    """
    allow_files(options.limits.connections)
    listener = bind(options.host, options.port)
    try:
        with _switching(_SWITCH_S):
            asyncio.run(_serve(options, registry, listener, on_ready, progress, verbose))
    finally:
        listener.close()


async def _serve(
    options: ServeOptions,
    registry: Registry,
    listener: socket.socket,
    on_ready: OnReady,
    progress: Progress,
    verbose: bool,
) -> None:
    loop = asyncio.get_running_loop()
    courier = Courier(loop)
    meter = _LoadMeter(progress)
    planner = ResidentPlanner(options.policy, courier.flush, meter)
    catalog = Catalog(registry, options.aliases, options.far, only=options.only)
    pool: ModelPool[Resident] = ModelPool(planner, keep_alive_s=options.keep_alive_s)
    with Desk(catalog, planner, pool) as desk:
        service = Service(desk, courier, Bodies(options.limits), options.limits)
        service.elsewhere.lender = DeskLender(desk, loop)
        boundary = build(
            service,
            Manager(service, allowed=options.manage),
            options.rules,
            Log(requests=options.log_requests, verbose=verbose).finished,
        )
        stop = _Stop(service, boundary, options.grace_s)
        with stop.listening(loop):
            held = await _preload(desk, options, meter, stop)
            if not stop.asked:
                await _run(options, boundary, listener, on_ready, stop)
            for one in held:
                await one.aclose()
            await service.elsewhere.aclose()


async def _preload(
    desk: Desk, options: ServeOptions, meter: _LoadMeter, stop: _Stop
) -> list[contextlib.AsyncExitStack]:
    """Load what was asked for. It stays: nobody else's model takes its room."""
    held = []
    for name in options.preload:
        if stop.asked:
            break
        stack = contextlib.AsyncExitStack()
        size = desk.catalog.find(name).model.size_bytes
        with meter.showing(f"load {name}", size):
            await stack.enter_async_context(desk.use(name))
        held.append(stack)
    return held


async def _run(
    options: ServeOptions,
    boundary: Boundary,
    listener: socket.socket,
    on_ready: OnReady,
    stop: _Stop,
) -> None:
    class Limited(Connection):
        limits = options.limits

    config = uvicorn.Config(
        boundary, http=Limited, ws="none", lifespan="off", log_config=None, access_log=False,
        log_level="critical", backlog=BACKLOG, server_header=False, proxy_headers=False,
        timeout_keep_alive=int(options.limits.idle_s),
        timeout_graceful_shutdown=int(options.grace_s + _LAST_WORDS_S),
    )  # fmt: skip
    server = _Server(config)
    stop.server = server
    if stop.asked:
        return
    clock = asyncio.create_task(boundary.clock())
    telling = asyncio.create_task(_tell(server, listener, options, on_ready))
    try:
        await server.serve(sockets=[listener])
        await telling
    finally:
        clock.cancel()
        telling.cancel()


async def _tell(
    server: uvicorn.Server, listener: socket.socket, options: ServeOptions, on_ready: OnReady
) -> None:
    """Once it takes connections."""
    while not server.started:
        await asyncio.sleep(0.005)
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    if address in ("0.0.0.0", "::"):
        shown = "127.0.0.1" if address == "0.0.0.0" else "[::1]"
    on_ready(
        Ready(address, port, f"http://{shown}:{port}", options.preload,
              bool(options.rules.keys), os.getpid())
    )  # fmt: skip


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours: uvicorn would raise them again at the end."""
        yield


class _Stop:
    """What signals do."""

    def __init__(self, service: Service, boundary: Boundary, grace_s: float) -> None:
        self._service = service
        self._boundary = boundary
        self._grace_s = grace_s
        self.asked = False
        self.server: uvicorn.Server | None = None

    @contextlib.contextmanager
    def listening(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """While the block runs; nothing where signals go to another thread (in tests)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            signals.append(signal.SIGBREAK)
        # signal.signal and not loop.add_signal_handler, which Windows lacks. The handler runs on
        # the loop's thread, between two of its steps at the earliest: hand over and wake it.
        before = {one: signal.signal(one, lambda *_: self._signal(loop)) for one in signals}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _signal(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.asked:
            Log.line("stopped", how="at once")
            os._exit(int(ExitCode.INTERRUPTED))
        self.asked = True
        loop.call_soon_threadsafe(self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._service.draining = True
        if self.server is not None:
            self.server.should_exit = True
        loop.call_later(self._grace_s, self._boundary.stop_all)


class _LoadMeter:
    """Progress of loads that a person waits for; of the others nothing is shown."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._advance: Callable[[int], None] | None = None

    @contextlib.contextmanager
    def showing(self, label: str, size_bytes: int) -> Iterator[None]:
        with self._progress.bytes(label, size_bytes) as self._advance:
            yield
        self._advance = None

    def __call__(self, n_bytes: int) -> None:
        advance = self._advance
        if advance is not None:
            advance(n_bytes)


@contextlib.contextmanager
def _switching(seconds: float) -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
