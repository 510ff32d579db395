"""Bring the files of a variant here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from glob import escape as glob_escape
from pathlib import Path

from localllm.pull.wanted import Wanted
from localllm.registry import Registry, Staged, StoredFile
from localllm.registry.work import partial_path
from localllm.sources.base import RemoteFile, Source, journal_of
from localllm.ui import Advance, Progress

Note = Callable[[str], None]


@dataclass(frozen=True)
class Arrived:
    """What fetching took. Bytes already here (resumed, or the same content in another model)
    are not among those fetched."""

    staged: tuple[Staged, ...]
    fetched_bytes: int = 0
    resumed_bytes: int = 0
    linked_bytes: int = 0
    unverified: tuple[str, ...] = ()  # files for which the source publishes no digest


def missing_bytes(registry: Registry, wanted: Wanted) -> int:
    """Disk space that fetching still needs, as far as sizes are known."""
    total = 0
    for file in wanted.variant.files:
        if file.size_bytes is None or (file.sha256 and _twin(registry, file)):
            continue
        total += max(0, file.size_bytes - _allocated(_partial(registry, wanted, file)))
    return total


def fetch(
    registry: Registry, source: Source, wanted: Wanted, progress: Progress, note: Note
) -> Arrived:
    """Fetch every file of `wanted` into `partial/`, linking what another model already has.

    The caller holds the lock `wanted.key`. Raises what the source raises; what has arrived
    stays for the next try.
    """
    files = wanted.variant.files
    _take_back(registry, wanted)
    staged: list[Staged] = []
    fetched = resumed = linked = 0
    unverified: list[str] = []
    with progress.bytes(f"pull {wanted.name}", wanted.variant.size_bytes) as advance:
        for file in files:
            partial = registry.partial(wanted.key, _label(wanted, file), wanted.member(file))
            if (twin := _linked(registry, file, partial, advance, note)) is not None:
                staged.append(twin)
                linked += twin.size_bytes
                continue
            result = source.fetch(file, partial, advance)
            for text in result.notes:
                note(text)
            staged.append(Staged(partial, file.name, result.size_bytes, result.sha256, file.role))
            fetched += result.size_bytes - result.resumed_bytes
            resumed += result.resumed_bytes
            if not result.verified and wanted.ref.scheme != "file":
                unverified.append(file.name)
    return Arrived(tuple(staged), fetched, resumed, linked, tuple(unverified))


def in_place(wanted: Wanted) -> Arrived:
    """The files of a path where they lie; nothing is read."""
    return Arrived(
        tuple(
            Staged(Path(f.locator["path"]), f.name, f.size_bytes or 0, None, f.role, in_place=True)
            for f in wanted.variant.files
        )
    )


def tidy(arrived: Arrived) -> None:
    """When the files have their final names, what lies beside their partials (journals, and
    what a kill left of one being replaced) is of no use."""
    for file in arrived.staged:
        if not file.in_place:
            for left in file.path.parent.glob(f"{glob_escape(file.path.name)}*"):
                left.unlink(missing_ok=True)


def _partial(registry: Registry, wanted: Wanted, file: RemoteFile) -> Path:
    """Where it lies, if it does: looking makes no folder."""
    return partial_path(registry.home, wanted.key, _label(wanted, file), wanted.member(file))


def _label(wanted: Wanted, file: RemoteFile) -> str:
    return f"{wanted.listing.repo}-{file.name.replace('/', '-')}"


def _allocated(partial: Path) -> int:
    """What a partial file takes on the disk; it may be sparse."""
    try:
        stat = partial.stat()
    except OSError:
        return 0
    blocks: int = getattr(stat, "st_blocks", stat.st_size // 512)
    return blocks * 512


def _take_back(registry: Registry, wanted: Wanted) -> None:
    """Files that a process moved to their final names and was killed before it registered
    them: their journals are still here, and say that they are complete."""
    lost = [
        Staged(partial, file.name, file.size_bytes, file.sha256, file.role)
        for file in wanted.variant.files
        if file.size_bytes is not None
        and journal_of(partial := _partial(registry, wanted, file)).exists()
        and not partial.exists()
    ]
    if lost:
        registry.take_back(wanted.arrival(lost))


def _twin(registry: Registry, file: RemoteFile) -> StoredFile | None:
    """A file of another model with the published digest. One that is not ours alone, or may be
    a link to a file of the user's, could change later."""
    known = registry.with_digest(file.sha256) if file.sha256 else None
    if known is None or not known[1].owned or known[0].source == "file":
        return None
    stored = known[1]
    return stored if stored.path.stat().st_size == stored.size_bytes else None


def _linked(
    registry: Registry, file: RemoteFile, partial: Path, advance: Advance, note: Note
) -> Staged | None:
    """The same content from a model that has it, as a link, instead of a download. It is read
    once, since a digest taken when it landed does not tell that it is still so."""
    twin = _twin(registry, file)
    if twin is None or twin.sha256 is None:
        return None
    if registry.digest(twin, advance) != twin.sha256:
        advance(-twin.size_bytes)
        note(f"{twin.path} is damaged: {file.name} is fetched again")
        return None
    try:
        partial.unlink(missing_ok=True)
        os.link(twin.path, partial)
    except OSError:
        advance(-twin.size_bytes)
        return None  # a file system without links: fetch it
    journal_of(partial).unlink(missing_ok=True)
    return Staged(partial, file.name, twin.size_bytes, twin.sha256, file.role)
