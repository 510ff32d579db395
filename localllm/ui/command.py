"""What every command has: --json, --progress, --quiet and --verbose, and an error boundary.

A room writes `def verify_command(name: ..., sink: Sink) -> None`; `command` replaces the
`sink` parameter by the shared options and hands the function a Sink made from them.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from localllm import config
from localllm.errors import Interrupted, LocalLLMError
from localllm.ui.sink import Sink

_PANEL = "Output"
_SHARED: dict[str, Any] = {
    "as_json": Annotated[
        bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=_PANEL)
    ],
    "progress_mode": Annotated[
        str,
        typer.Option(
            "--progress",
            metavar="auto|plain|json|none",
            help="How progress is shown, on stderr.",
            rich_help_panel=_PANEL,
        ),
    ],
    "verbose": Annotated[
        bool,
        typer.Option("--verbose", help="Show llama.cpp's own log lines.", rich_help_panel=_PANEL),
    ],
}
_DEFAULTS: dict[str, Any] = {"as_json": False, "progress_mode": "auto", "verbose": False}

current: Sink | None = None  # the run's sink, for the error boundary in cli.main


def command(function: Callable[..., None]) -> Callable[..., int]:
    """Turn a function with a `sink` parameter into a Typer command with the shared options."""
    hints = typing.get_type_hints(function, include_extras=True)
    own = [p for p in inspect.signature(function).parameters.values() if p.name != "sink"]

    @functools.wraps(function)
    def run(ctx: typer.Context, **given: Any) -> int:
        shared = {name: given.pop(name) for name in _SHARED}
        sink = _make_sink(ctx, **shared)
        try:
            function(**given, sink=sink)
        except KeyboardInterrupt:
            raise Interrupted("interrupted", None) from None
        return int(sink.exit_code)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    parameters += [p.replace(kind=keyword, annotation=hints[p.name]) for p in own]
    parameters += [
        inspect.Parameter(name, keyword, annotation=hint, default=_DEFAULTS[name])
        for name, hint in _SHARED.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    del run.__wrapped__
    return run


def _make_sink(ctx: typer.Context, as_json: bool, progress_mode: str, verbose: bool) -> Sink:
    global current
    words = (ctx.command_path or "").split()[1:]
    try:
        no_color = config.load().no_color
    except LocalLLMError:
        no_color = False  # the command itself reports a broken config.toml, or mends it
    if progress_mode not in ("auto", "plain", "json", "none"):
        raise typer.BadParameter(
            f"{progress_mode!r} is none of auto, plain, json, none", param_hint="--progress"
        )
    current = Sink(
        " ".join(words),
        as_json=as_json,
        progress=progress_mode,  # type: ignore[arg-type]
        verbose=verbose,
        no_color=no_color,
    )
    return current
