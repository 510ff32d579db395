"""create: a model with a preset, from a Modelfile."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from localllm.create.create import CreatedModel, create
from localllm.create.source import read_modelfile
from localllm.modelfile import parse
from localllm.registry import Registry
from localllm.ui import Bytes, Fields, Sink, View


def create_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the new model is called.")],
    file: Annotated[
        str,
        typer.Option("--file", "-f", metavar="FILE", help="The Modelfile; - reads it from stdin."),
    ] = "Modelfile",
    *,
    sink: Sink,
) -> None:
    """Make a model with a preset of its own from an Ollama Modelfile."""
    path = None if file == "-" else Path(file).expanduser()
    wanted = parse(read_modelfile(path))
    folder = Path.cwd() if path is None else path.absolute().parent
    command = shlex.join(["localllm", "create", name, "-f", file])
    made = create(Registry.open(), name, wanted, folder, sink.progress, sink.warn, command)
    sink.show(made, _view)


def _view(made: CreatedModel) -> View:
    return Fields(
        [
            ("created" if not made.replaced else "created again", made.name),
            ("from", made.base),
            ("adapters", ", ".join(made.adapters) or None),
            ("shares", Bytes(made.size_bytes)),
            ("chat", f"localllm chat {made.name}"),
        ]
    )
