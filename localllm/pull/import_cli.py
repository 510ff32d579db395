"""import: models that other programs keep on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm import config
from localllm.pull.importing import Imported, import_models
from localllm.registry import Registry
from localllm.ui import Bytes, Sink, Table, View
from localllm.ui.view import Toned


def import_command(
    where: Annotated[
        str,
        typer.Option(
            "--from", metavar="ollama|hf-cache|lmstudio|DIR", help="Whose models, or which folder."
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is there.")] = False,
    *,
    sink: Sink,
) -> None:
    """Register models that Ollama, LM Studio or others left on this machine."""
    settings = config.load()
    found = import_models(Registry.open(settings), where, settings, sink.warn, dry_run=dry_run)
    sink.show(found, _table)


def _table(found: tuple[Imported, ...]) -> View:
    rows = []
    for one in found:
        said = one.outcome if one.reason is None else f"{one.outcome}: {one.reason}"
        tone = "warn" if one.outcome == "skipped" else "good"
        kind = one.file_type or one.format
        rows.append((one.name, kind, Bytes(one.size_bytes), Toned(said, tone)))  # type: ignore[arg-type]
    return Table(("name", "type", "size", "result"), rows)
