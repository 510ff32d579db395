"""list, path, cp, rm, export."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from localllm.library import ModelName, ModelNames, find_model
from localllm.models.export import Exported, export_model
from localllm.models.listing import ListedModel, list_models
from localllm.models.names import Copied, Paths, Removed, add_name, paths_of, remove
from localllm.registry import Registry
from localllm.ui import Bytes, Count, Fields, Moment, Sink, Table, Text, View
from localllm.ui.view import Note


class Sort(StrEnum):
    NAME = "name"
    SIZE = "size"
    PARAMS = "params"
    ADDED = "added"


def list_command(
    pattern: Annotated[
        str | None,
        typer.Argument(help="Only models in which this occurs; * and ? are wildcards."),
    ] = None,
    sort: Annotated[Sort, typer.Option("--sort", help="Order by this.")] = Sort.NAME,
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="Largest first.")] = False,
    *,
    sink: Sink,
) -> None:
    """List the models of the registry."""
    sink.show(list_models(Registry.open(), pattern, sort.value, reverse), _table)


def _table(models: tuple[ListedModel, ...]) -> View:
    if not models:
        return Note("no models yet; try: localllm pull org/repo:Q4_K_M, or localllm quickstart")
    columns = ("name", "arch", "type", "params", "size", "added")
    rows = [
        (
            " = ".join((m.name, *m.aliases)) + ("" if m.present else " (gone)"),
            m.architecture,
            m.file_type or m.format,
            None if m.n_params is None else Count(m.n_params),
            Bytes(m.size_bytes),
            Moment(m.added_at),
        )
        for m in models
    ]
    return Table(columns, rows)


def path_command(
    name: ModelName,
    every: Annotated[bool, typer.Option("--all", help="Every file, one a line.")] = False,
    mmproj: Annotated[bool, typer.Option("--mmproj", help="The vision projector.")] = False,
    *,
    sink: Sink,
) -> None:
    """Print the path of a model's file."""
    model = find_model(name, Registry.open())
    sink.show(paths_of(model, every=every, mmproj=mmproj), _path_lines)


def _path_lines(found: Paths) -> View:
    return Text("\n".join(map(str, found.paths)))


def cp_command(
    name: ModelName,
    new_name: Annotated[str, typer.Argument(help="The second name.")],
    *,
    sink: Sink,
) -> None:
    """Give a model a second name."""
    sink.show(add_name(Registry.open(), name, new_name), _copied)


def _copied(done: Copied) -> View:
    return Note(f"{done.alias} now names {done.model}")


def rm_command(
    names: ModelNames,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Remove models, or a second name."""
    removed = remove(Registry.open(), names, dry_run=dry_run)
    for one in removed:
        if one.children:
            sink.warn(f"{one.name} is the parent of {', '.join(one.children)}, which stay")
    sink.show(removed, _removed)


def _removed(removed: tuple[Removed, ...]) -> View:
    rows = [(one.name, one.what, Bytes(one.freed_bytes)) for one in removed]
    return Table(("name", "removed", "freed"), rows)


def export_command(
    name: ModelName,
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is not there.")],
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Hard link instead of copying where possible.")
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Write a model's files to a folder of your own."""
    model = find_model(name, Registry.open())
    sink.show(export_model(model, folder, sink.progress, force=force, link=link), _exported)


def _exported(done: Exported) -> View:
    return Fields([("written", str(p)) for p in done.paths] + [("size", Bytes(done.size_bytes))])
