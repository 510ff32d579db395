"""Data sets of the Hub, brought into the home: a file that is here already is not fetched again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.config import Settings
from localllm.errors import DiskFull, OfflineMode
from localllm.registry import Registry
from localllm.registry.datasets import dataset_file, keep_dataset_file
from localllm.sources.base import RemoteFile, journal_of
from localllm.sources.disk import require_room
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.sources.datasets import DatasetListing, DatasetRef, DatasetSource

_LISTING = "localllm-listing.json"


@dataclass(frozen=True)
class Here:
    """A data set on disk. `ref` names the commit, so it means the same for ever."""

    ref: str
    files: tuple[tuple[str, Path], ...]  # name in the data set, where it lies
    split: str | None
    splits: tuple[str, ...]
    fetched_bytes: int


def bring(text: str, registry: Registry, settings: Settings, progress: Progress) -> Here:
    """The files that `text` (see DatasetRef) means, fetched where they are not here yet.

    A reference pinned to a commit that is all here asks nothing of the network. Raises what the
    source raises, DiskFull, HomeUnwritable; what has arrived stays for the next try.
    """
    from localllm.sources.datasets import DatasetRef, DatasetSource

    ref = DatasetRef.parse(text)
    if ref.is_pinned and (kept := _kept(registry, ref)) is not None:
        return kept
    if settings.offline:
        raise OfflineMode(
            f"{ref} needs the network, which is switched off",
            "unset HF_HUB_OFFLINE, or name the commit that is here: hf-dataset:org/name@COMMIT",
        )
    source = DatasetSource(settings)
    listing = source.locate_data(ref)
    placed = [(f, dataset_file(registry, ref.name, str(listing.ref.revision), f.name))
              for f in listing.files]  # fmt: skip
    missing = [(f, path) for f, path in placed if not _is_here(f, path)]
    fetched = _fetch(missing, source, str(listing.ref), registry, progress)
    here = Here(
        str(listing.ref),
        tuple((f.name, path) for f, path in placed),
        listing.split,
        listing.splits,
        fetched,
    )
    _note(registry, listing, here)
    return here


def _fetch(
    missing: Sequence[tuple[RemoteFile, Path]],
    source: DatasetSource,
    pinned: str,
    registry: Registry,
    progress: Progress,
) -> int:
    if not missing:
        return 0
    sizes = [f.size_bytes for f, _ in missing]
    total = None if None in sizes else sum(s or 0 for s in sizes)
    name, _, _ = pinned.partition("@")
    fetched = 0
    with progress.bytes(f"fetch {name}", total) as advance:
        for file, final in missing:
            key = f"dataset {final}"
            with registry.lock(key):
                if _is_here(file, final):
                    advance(file.size_bytes or 0)
                    continue
                partial = registry.partial(key, final.name)
                if not partial.exists():
                    _check_room(partial, file.size_bytes)
                result = source.fetch(file, partial, advance)
                keep_dataset_file(partial, final)
                journal_of(partial).unlink(missing_ok=True)
                fetched += result.size_bytes - result.resumed_bytes
    return fetched


def _check_room(partial: Path, size_bytes: int | None) -> None:
    try:
        require_room(partial, size_bytes or 0)
    except DiskFull as error:
        raise DiskFull(error.message, "free some space and run the same command again") from None


def _is_here(file: RemoteFile, path: Path) -> bool:
    """Files get their names when they are complete and verified, so a look is enough."""
    try:
        size = path.stat().st_size
    except OSError:
        return False
    return file.size_bytes is None or size == file.size_bytes


def _note(registry: Registry, listing: DatasetListing, here: Here) -> None:
    """What a part of this commit means, so that it is known without the network."""
    path = dataset_file(registry, listing.ref.name, str(listing.ref.revision), _LISTING)
    held = _read(path)
    held[listing.ref.part or ""] = {
        "files": [name for name, _ in here.files], "split": here.split, "splits": here.splits,
        "ref": asdict(listing.ref),
    }  # fmt: skip
    partial = registry.partial(f"listing {path}", path.name)
    partial.write_text(json.dumps(held), encoding="utf-8")
    keep_dataset_file(partial, path)


def _kept(registry: Registry, ref: DatasetRef) -> Here | None:
    commit = str(ref.revision)
    listed = _read(dataset_file(registry, ref.name, commit, _LISTING)).get(ref.part or "")
    if not isinstance(listed, dict) or not isinstance(listed.get("files"), list):
        return None
    files = [(n, dataset_file(registry, ref.name, commit, n)) for n in map(str, listed["files"])]
    if not files or not all(path.is_file() for _, path in files):
        return None
    return Here(str(ref), tuple(files), listed.get("split"), tuple(listed.get("splits") or ()), 0)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
