"""worker."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from localllm import config
from localllm.errors import UsageProblem
from localllm.ui import Bytes, Note, Sink, Table, View
from localllm.worker.worker import Lending, WorkerReady, lend


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, **more)


def worker_command(
    host: Annotated[str, _option("--host", help="Where to listen: an IPv4 address.")] = "127.0.0.1",
    port: Annotated[
        int, _option("--port", "-p", help="0 takes any that is free.", min=0, max=65535)
    ] = 50052,
    device: Annotated[
        list[str] | None,
        _option(
            "--device",
            metavar="NAME",
            help="Lend this one (`localllm hardware` lists them); may be repeated. Default every "
            "GPU, or the processor where there is none.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        _option("--threads", "-t", min=1, help="Of the processor; default the physical cores."),
    ] = None,
    trust_network: Annotated[
        bool,
        _option(
            "--trust-network",
            help="Listen beyond this machine: nobody but your own machines can reach it.",
        ),
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Lend this machine's devices to a model that runs on another one."""
    settings = config.load()
    wanted = Lending(host, port, tuple(device or ()), threads or settings.threads, trust_network)
    if not wanted.is_loopback:
        if not trust_network:
            raise UsageProblem(
                f"--host {host} can be reached from other machines, and llama.cpp's RPC has no "
                "password and no encryption",
                "an SSH tunnel to 127.0.0.1, or --trust-network where nobody else can reach it",
            )
        sink.warn(
            "whoever can reach this port can read and change the memory of this process: "
            "llama.cpp's RPC has no password and no encryption"
        )
    lend(wanted, lambda ready: sink.show(ready, _view), sink.note, verbose=sink.verbose)
    sink.note("stopped")


def _view(ready: WorkerReady) -> View:
    rows = [
        (d.name, d.description, Bytes(d.memory_free_bytes), Bytes(d.memory_total_bytes))
        for d in ready.devices
    ]
    return [
        Table(("device", "is", "free", "memory"), rows),
        Note(
            f"lending at {ready.address}; localllm chat MODEL --rpc {ready.address}   Ctrl-C stops"
        ),
    ]
