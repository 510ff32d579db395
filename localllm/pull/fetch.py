"""Bring the files of a variant here and register them as one model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import DiskFull
from localllm.library.describe import Description
from localllm.refs import ModelRef
from localllm.registry import Arrival, Model, Registry, Staged
from localllm.sources.base import Listing, RemoteFile, Source, Variant, journal_of
from localllm.ui import Bytes, Progress


@dataclass(frozen=True)
class Arrived:
    """What fetching took. Bytes already here (resumed, or the same content in another model)
    are not among those fetched."""

    staged: tuple[Staged, ...]
    fetched_bytes: int
    resumed_bytes: int
    linked_bytes: int
    unverified: tuple[str, ...]  # files for which the source publishes no digest


def key_of(listing: Listing, file: RemoteFile) -> str:
    """What one remote file is called by every process that might fetch it."""
    return f"{listing.ref.at(None).pick(None)}|{file.name}|{file.sha256 or listing.ref.revision}"


def partial_of(registry: Registry, listing: Listing, file: RemoteFile) -> Path:
    label = f"{listing.repo}-{file.name.replace('/', '-')}"
    return registry.partial(key_of(listing, file), label)


def pinned(listing: Listing, variant: Variant) -> ModelRef:
    """The reference of exactly this variant. URLs and paths are whole: they have no parts."""
    if listing.ref.scheme in ("http", "https", "file"):
        return ModelRef(listing.ref.scheme, listing.ref.name)
    return listing.ref.pick(variant.name)


def missing_bytes(registry: Registry, listing: Listing, variant: Variant) -> int:
    """Disk space that fetching `variant` still needs, as far as sizes are known."""
    total = 0
    for file in variant.files:
        if file.size_bytes is None or (file.sha256 and registry.with_digest(file.sha256)):
            continue
        total += max(0, file.size_bytes - _here(registry, listing, file))
    return total


def _here(registry: Registry, listing: Listing, file: RemoteFile) -> int:
    if not (registry.home / "partial").is_dir():
        return 0  # looking creates nothing
    try:
        stat = partial_of(registry, listing, file).stat()
    except OSError:
        return 0
    # what is allocated, since a partial file may be sparse
    return int(getattr(stat, "st_blocks", stat.st_size // 512)) * 512


def check_space(registry: Registry, needed: int) -> None:
    """Raises DiskFull if the file system of the home has less than `needed` bytes free."""
    folder = registry.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            f"{registry.home} has {Bytes(free)} free and {Bytes(needed)} more are needed",
            "localllm prune, or set LOCALLLM_HOME to a larger disk",
        )


def fetch(
    registry: Registry,
    source: Source,
    listing: Listing,
    variant: Variant,
    progress: Progress,
    note: Callable[[str], None],
) -> Arrived:
    """Fetch every file of `variant` into `partial/`, linking what another model already has.

    Raises what the source raises; what has arrived stays for the next try.
    """
    staged: list[Staged] = []
    fetched = resumed = linked = 0
    unverified: list[str] = []
    label = f"pull {listing.repo}" + (f":{variant.name}" if variant.name else "")
    with progress.bytes(label, variant.size_bytes) as advance:
        for file in variant.files:
            partial = partial_of(registry, listing, file)
            if (twin := _linked(registry, file, partial)) is not None:
                staged.append(twin)
                linked += twin.size_bytes
                advance(twin.size_bytes)
                continue
            result = source.fetch(file, partial, advance)
            for text in result.notes:
                note(text)
            staged.append(Staged(partial, file.name, result.size_bytes, result.sha256, file.role))
            fetched += result.size_bytes - result.resumed_bytes
            resumed += result.resumed_bytes
            if not result.verified:
                unverified.append(file.name)
    return Arrived(tuple(staged), fetched, resumed, linked, tuple(unverified))


def _linked(registry: Registry, file: RemoteFile, partial: Path) -> Staged | None:
    """The same content from a model that has it, as a link, instead of a download."""
    if file.sha256 is None or (known := registry.with_digest(file.sha256)) is None:
        return None
    _, stored = known
    if not stored.owned or stored.path.stat().st_size != stored.size_bytes:
        return None
    try:
        partial.unlink(missing_ok=True)
        os.link(stored.path, partial)
    except OSError:
        return None  # a file system without links: fetch it
    return Staged(partial, file.name, stored.size_bytes, file.sha256, file.role)


def register(
    registry: Registry,
    listing: Listing,
    variant: Variant,
    name: str,
    facts: Description,
    staged: Sequence[Staged],
) -> Model:
    """Give the fetched files their final names and the index its rows, in one transaction."""
    extras = dict(variant.extras)
    if listing.license and "license" not in extras:
        extras["license"] = listing.license
    if listing.page:
        extras["page"] = listing.page
    model = registry.add(
        Arrival(
            name=name,
            ref=pinned(listing, variant),
            format=variant.format,
            source=listing.ref.scheme,
            publisher=listing.publisher,
            repo=listing.repo,
            variant=variant.name,
            architecture=facts.architecture,
            file_type=facts.file_type,
            n_params=facts.n_params,
            n_ctx_train=facts.n_ctx_train,
            extras=extras,
            files=tuple(staged),
        )
    )
    for file in staged:
        if not file.in_place:
            journal_of(file.path).unlink(missing_ok=True)
    return model
