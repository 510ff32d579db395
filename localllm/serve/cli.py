"""serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localllm import config
from localllm.errors import MissingExtra
from localllm.library.arguments import complete_model
from localllm.placement import arguments as place
from localllm.registry import Registry
from localllm.ui import Sink

if TYPE_CHECKING:
    from localllm.serve.lifecycle import Ready
    from localllm.serve.options import ServeOptions

_REACH, _MODELS, _LIMITS = "Reach", "Models", "Limits"


def _option(*names: str, panel: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def serve_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            autocompletion=complete_model,
            help="Load these now and keep them. Others of the registry load when asked for.",
        ),
    ] = None,
    host: Annotated[str, _option("--host", panel=_REACH, help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int,
        _option("--port", "-p", panel=_REACH, help="0 takes any that is free.", min=0, max=65535),
    ] = 11435,
    api_key: Annotated[
        list[str] | None,
        _option(
            "--api-key",
            metavar="KEY",
            panel=_REACH,
            help="Ask clients for it; may be repeated. Better from LOCALLLM_API_KEY or a file: "
            "others may see a command line.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, _option("--api-key-file", panel=_REACH, help="A key a line.")
    ] = None,
    no_key: Annotated[
        bool, _option("--no-key", panel=_REACH, help="Beyond this machine without any key.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        _option(
            "--allow-host",
            metavar="NAME",
            panel=_REACH,
            help="A name that clients may call this server by, beside addresses and "
            "localhost; may be repeated.",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        _option(
            "--cors",
            metavar="ORIGIN",
            panel=_REACH,
            help="Let web pages of this origin ask (https://host); may be repeated.",
        ),
    ] = None,
    manage: Annotated[
        bool | None,
        _option(
            "--manage/--no-manage",
            panel=_REACH,
            help="Pull, delete, copy and create over the API; default only where nobody but "
            "this machine can ask.",
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        _option(
            "--alias",
            metavar="NAME=MODEL[+ADAPTER[:SCALE]]...",
            panel=_MODELS,
            help="Serve a model under a name, with LoRA adapters; may be repeated.",
        ),
    ] = None,
    only: Annotated[
        bool, _option("--only", panel=_MODELS, help="Serve only what is named here.")
    ] = False,
    slots: Annotated[
        int | None,
        _option(
            "--slots",
            panel=_MODELS,
            min=1,
            max=256,
            help="Conversations at once in each model; default 4, or what fits.",
        ),
    ] = None,
    keep_alive: Annotated[
        str,
        _option(
            "--keep-alive",
            panel=_MODELS,
            help="How long an unused model stays in memory: 30s, 5m, -1 for ever.",
        ),
    ] = "5m",
    max_loaded: Annotated[
        int | None, _option("--max-loaded", panel=_MODELS, min=1, help="Models in memory at once.")
    ] = None,
    memory: Annotated[
        float | None,
        _option(
            "--memory",
            metavar="GIB",
            panel=_MODELS,
            min=0.01,
            help="What all models together may take; default what there is.",
        ),
    ] = None,
    max_waiting: Annotated[
        int,
        _option(
            "--max-waiting",
            panel=_LIMITS,
            min=0,
            help="Requests that wait for a slot of one model; more are told to come back.",
        ),
    ] = 256,
    max_connections: Annotated[
        int, _option("--max-connections", panel=_LIMITS, min=1, help="More are refused.")
    ] = 4096,
    max_body: Annotated[
        int, _option("--max-body", metavar="MIB", panel=_LIMITS, min=1, help="A larger one is 413.")
    ] = 32,
    timeout: Annotated[
        float | None,
        _option(
            "--timeout",
            metavar="SECONDS",
            panel=_LIMITS,
            min=0.1,
            help="What one request may take in all; default any time.",
        ),
    ] = None,
    grace: Annotated[
        float,
        _option(
            "--grace",
            metavar="SECONDS",
            panel=_LIMITS,
            min=0.0,
            help="What running answers have to end when the server stops.",
        ),
    ] = 10.0,
    log_requests: Annotated[
        bool,
        _option(
            "--log-requests",
            panel=_LIMITS,
            help="A JSON line on stderr for each request; never what it says.",
        ),
    ] = False,
    n_ctx: place.Ctx = None,
    kv: place.KvType = None,
    n_gpu_layers: place.GpuLayers = None,
    flash_attn: place.FlashAttn = None,
    threads: place.Threads = None,
    rpc: place.Rpc = None,
    require_gpu: place.RequireGpu = False,
    force: place.Force = False,
    *,
    sink: Sink,
) -> None:
    """Serve models over HTTP: OpenAI's API, Ollama's, and a page to chat."""
    settings = config.load()
    registry = Registry.open(settings)
    place.use_workers(rpc)
    _need_extra()
    from localllm.serve.given import Given
    from localllm.serve.lifecycle import serve

    given = Given(
        models=models or [], host=host, port=port, api_keys=api_key or [],
        api_key_file=api_key_file, no_key=no_key, hosts=allow_host or [], origins=cors or [],
        manage=manage, aliases=alias or [], only=only, slots=slots, keep_alive=keep_alive,
        max_loaded=max_loaded, memory_gib=memory, max_waiting=max_waiting,
        max_connections=max_connections, max_body_mib=max_body, timeout_s=timeout,
        grace_s=grace, log_requests=log_requests, threads=threads or settings.threads,
        require_gpu=require_gpu, force=force,
        plan=place.plan_options(n_ctx or settings.n_ctx, kv, n_gpu_layers, flash_attn),
        said=place.said(kv, n_gpu_layers, flash_attn),
    )  # fmt: skip
    options = given.options(settings, registry)
    serve(options, registry, lambda ready: _ready(ready, options, sink),
          progress=sink.progress, verbose=sink.verbose)  # fmt: skip
    sink.note("stopped")


def _need_extra() -> None:
    try:
        import httptools  # noqa: F401
        import pydantic  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"serve needs the package {error.name}", "pip install 'localllm[serve]'"
        ) from None


def _ready(ready: Ready, options: ServeOptions, sink: Sink) -> None:
    sink.show(ready)
    loaded = f"; in memory: {', '.join(ready.models)}" if ready.models else ""
    sink.note(f"serving on {ready.url}{loaded}")
    sink.note(f"OpenAI: {ready.url}/v1   Ollama: {ready.url}   page: {ready.url}/   "
              "Ctrl-C stops")  # fmt: skip
    if not options.rules.keys and ready.address in ("0.0.0.0", "::"):
        sink.warn("anyone who can reach this machine may use it: there is no API key")
