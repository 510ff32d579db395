"""bench import: benchmarks of other programs and machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm.bench.files.importing import Imported, import_runs, known_model
from localllm.library.arguments import complete_model
from localllm.registry import Registry
from localllm.ui import Note, Sink, Table, View
from localllm.ui.view import Toned


def import_command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="llama-bench's json, jsonl, csv, sql; our json."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", autocompletion=complete_model,
            help="Keep them under this model, whatever the file says.",
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="A name to find them by.")] = None,
    *,
    sink: Sink,
) -> None:  # fmt: skip
    """Keep benchmarks that llama-bench or another machine wrote."""
    registry = Registry.open()
    known = known_model(model, registry) if model else None
    done = import_runs(files, registry, model=known, tag=tag)
    for one in done:
        if not one.complete:
            sink.warn(f"{one.file} ends in the middle: only its whole rows are kept")
    sink.show(done, _view)


def _view(done: tuple[Imported, ...]) -> View:
    columns = ("id", "model", "rows", "file", "found by", "")
    rows = [
        (one.id, one.model, one.rows, one.file, one.matched or Toned("no model here", "dim"),
         "new" if one.is_new else Toned("known already", "dim"))
        for one in done
    ]  # fmt: skip
    new = sum(one.is_new for one in done)
    return [Table(columns, rows), Note(f"{new} new runs, {len(done) - new} known already")]
