"""Models that are on this machine already: a GGUF file, its shards, or a folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from localllm.config import Settings
from localllm.errors import (
    AccessDenied,
    DamagedFile,
    FileGone,
    LocalLLMError,
    SourceFailed,
    SourceNotFound,
)
from localllm.refs import ModelRef
from localllm.sources.base import Advance, Fetched, Listing, RemoteFile, Variant
from localllm.sources.choose import matching
from localllm.sources.file_copy import bring
from localllm.sources.hub_variants import classify
from localllm.sources.names import safe_component, split_of


class FileSource:
    """The Source for `file:` references. Nothing is published here, so nothing is verified."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def locate(self, ref: ModelRef) -> Listing:
        """A folder's variants, or the one that a file belongs to: its shards and its mmproj."""
        path = Path(ref.name).expanduser().absolute()
        if path.is_dir():
            listing = _of_folder(ref, path, deep=True)
            if not listing.variants and not listing.incomplete:
                raise SourceNotFound(f"{path} has no GGUF, safetensors or adapter files")
            return listing
        if not path.is_file():
            raise SourceNotFound(f"there is no file {path}")
        if path.suffix.lower() != ".gguf" and not _is_gguf(path):
            raise DamagedFile(
                f"{path} is no GGUF file",
                "give a GGUF file, or the folder of a safetensors model",
            )
        return _of_file(ref, path)

    def read_range(self, file: RemoteFile, start: int, length: int) -> bytes:
        path = local_path(file)
        try:
            with path.open("rb") as content:
                content.seek(start)
                return content.read(length)
        except OSError as e:
            raise _unreadable(path, e) from None

    def fetch(self, file: RemoteFile, partial: Path, advance: Advance) -> Fetched:
        """Clone, link or copy the file to `partial`; its sha256 is taken on the way."""
        path = local_path(file)
        try:
            size = path.stat().st_size
            with path.open("rb"):
                pass
        except OSError as e:
            raise _unreadable(path, e) from None
        return bring(path, size, partial, advance)


def local_path(file: RemoteFile) -> Path:
    """Where a file of this source lies: absolute, links not followed."""
    return Path(file.locator["path"])


def _of_file(ref: ModelRef, path: Path) -> Listing:
    folder = _of_folder(ref, path.parent, deep=False)
    split = split_of(path.stem)
    if any(f.name == path.name for v in folder.variants for f in v.weights) or split:
        variant = matching(folder, path.name)
    else:  # named like an adapter, an mmproj or an importance matrix: the header will tell
        ending = "" if path.suffix.lower() == ".gguf" else ".gguf"  # a blob of some store
        lone = RemoteFile(
            path.name + ending, path.stat().st_size, None, "weights", {"path": str(path)}
        )
        listed = [v for v in folder.variants if any(f.name == path.name for f in v.files)]
        own = [v for v in listed if v.format == "adapter"]
        variant = own[0] if own else Variant(path.stem, "gguf", (lone,))
    return Listing(
        ref=ref,
        publisher="local",
        repo=safe_component(split.stem if split else path.stem),
        variants=_unnamed_if_single((variant,)),
    )


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError as e:
        raise _unreadable(path, e) from None


def _unnamed_if_single(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """A path is a whole reference: nothing more is to be named where it leads to one variant."""
    return (replace(variants[0], name=None),) if len(variants) == 1 else variants


def _of_folder(ref: ModelRef, folder: Path, deep: bool) -> Listing:
    try:
        variants = classify(_files(folder, deep))
    except OSError as e:
        raise _unreadable(folder, e) from None
    return Listing(
        ref=ref,
        publisher="local",
        repo=safe_component(folder.name),
        variants=_unnamed_if_single(variants.complete),
        incomplete=variants.incomplete,
    )


def _files(folder: Path, deep: bool) -> Iterable[RemoteFile]:
    """The files of a folder, `deep` also those one level down, as a repository has them."""
    for entry in sorted(folder.iterdir()):
        inside = sorted(entry.iterdir()) if deep and _is_open_folder(entry) else [entry]
        for path in inside:
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                yield RemoteFile(name, path.stat().st_size, None, "text", {"path": str(path)})


def _is_open_folder(path: Path) -> bool:
    try:
        return path.is_dir() and next(path.iterdir(), None) is not None
    except OSError:
        return False  # one that may not be read is passed over


def _unreadable(path: Path, error: OSError) -> LocalLLMError:
    if isinstance(error, FileNotFoundError):
        return FileGone(f"{path} is gone")
    if isinstance(error, PermissionError):
        return AccessDenied(f"{path} may not be read: {error.strerror}")
    return SourceFailed(f"{path} cannot be read: {error.strerror or error}")
