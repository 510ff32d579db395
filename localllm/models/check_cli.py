"""verify, prune, rebuild: is what we have what we think it is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from localllm.errors import DamagedFile, FileGone, LocalLLMError, ModelNotFound, UsageProblem
from localllm.library import find_model, stray
from localllm.library.arguments import complete_model
from localllm.models.verify import Verified, verify
from localllm.refs import ModelRef
from localllm.registry import Model, Registry
from localllm.registry.garbage import Garbage, garbage, sweep
from localllm.registry.resolve import pick
from localllm.registry.upkeep import Rebuilt, rebuild
from localllm.ui import Bytes, Fields, Sink, Table, View
from localllm.ui.view import Note, Toned


def verify_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", autocompletion=complete_model, help="Which models."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every model of the registry.")] = False,
    *,
    sink: Sink,
) -> None:
    """Check that a model's files are what was downloaded."""
    registry = Registry.open()
    if bool(names) == every:
        raise UsageProblem("name the models to verify, or say --all", "localllm verify --all")
    models = registry.models() if every else [_registered(registry, n) for n in names or ()]
    results = tuple(verify(model, registry, sink.progress) for model in models)
    sink.show(results, _verified, ok=all(r.ok for r in results), error=_verify_error(results))


def _registered(registry: Registry, name: str) -> Model:
    """Also a model whose files are gone: that is a finding here, not an error."""
    ref = ModelRef.parse(name)
    return find_model(name, registry) if ref.scheme == "file" else pick(registry.models(), ref)


def _verify_error(results: tuple[Verified, ...]) -> LocalLLMError | None:
    for r in results:
        if r.damaged:
            return DamagedFile(
                f"{r.model}: {', '.join(r.damaged)} is not what was downloaded",
                f"localllm rm {r.model}, then pull it again",
            )
    for r in results:
        if r.missing:
            return FileGone(f"{r.model}: {', '.join(r.missing)} is gone", f"localllm rm {r.model}")
    return None


def _verified(results: tuple[Verified, ...]) -> View:
    if not results:
        return Note("no models to verify")
    rows = []
    for r in results:
        bad = [f"damaged: {n}" for n in r.damaged] + [f"gone: {n}" for n in r.missing]
        said = "ok, digest recorded" if r.recorded else "ok"
        verdict = Toned("; ".join(bad), "bad") if bad else Toned(said, "good")
        rows.append((r.model, Bytes(r.bytes_read), verdict))
    return Table(("model", "read", "result"), rows)


@dataclass(frozen=True)
class Pruned:
    found: tuple[Garbage, ...]
    found_bytes: int
    removed: bool
    freed_bytes: int


def prune_command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    *,
    sink: Sink,
) -> None:
    """Find and remove partial downloads, orphans and files nothing refers to."""
    registry = Registry.open()
    found = garbage(registry)
    total = sum(g.size_bytes for g in found)
    if dry_run or not found:
        sink.show(Pruned(found, total, False, 0), _garbage)
        return
    if not yes:
        sink.present(_garbage(Pruned(found, total, False, 0)))
        if not _confirmed(f"remove {len(found)} files ({Bytes(total)})?", sink):
            sink.note("nothing removed; add --yes to remove without asking")
            sink.show(Pruned(found, total, False, 0))
            return
    sink.show(Pruned(found, total, True, sweep(registry, found)), _pruned)


def _confirmed(question: str, sink: Sink) -> bool:
    if not sink.is_terminal or sys.stdin is None or not sys.stdin.isatty():
        return False
    return bool(typer.confirm(question, default=False, err=True))


def _garbage(result: Pruned) -> View:
    if not result.found:
        return Note("nothing to prune")
    rows = [(g.kind, Bytes(g.size_bytes), str(g.path)) for g in result.found]
    return [Table(("kind", "size", "path"), rows), Note(f"{Bytes(result.found_bytes)} in all")]


def _pruned(result: Pruned) -> View:
    return Note(f"removed {len(result.found)} files, freed {Bytes(result.freed_bytes)}")


def rebuild_command(*, sink: Sink) -> None:
    """Rebuild the index of the registry from the files."""
    registry = Registry.open()
    if not registry.home.exists():
        raise ModelNotFound(f"there is no registry at {registry.home}", "localllm pull org/repo")
    result = rebuild(registry, lambda path: stray(path, registry))
    for reason in result.skipped:
        sink.warn(f"skipped {reason}")
    sink.show(result, _rebuilt)


def _rebuilt(result: Rebuilt) -> View:
    return Fields(
        [
            ("models", result.models),
            ("from manifests", result.from_manifests),
            ("from files alone", result.from_files),
            ("measurements kept", result.measurements),
            ("old index", None if result.old_index is None else str(result.old_index)),
        ]
    )
