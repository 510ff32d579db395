"""What every source of models gives: locate, read a range, fetch.

A source turns a `ModelRef` into a `Listing` (what is there, pinned to a revision), reads
byte ranges of a file without downloading it, and fetches a file into a partial file that
survives a killed process. Registering what arrived is `registry`'s, choosing a variant is
`pull`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from localllm.config import Settings
from localllm.errors import OfflineMode
from localllm.refs import ModelRef

Advance = Callable[[int], None]  # called with the number of bytes newly done

# What a file is for. A model's `weights` are in shard order.
FileRole = Literal["weights", "mmproj", "adapter", "tokenizer", "config", "template", "text"]
ModelFormat = Literal["gguf", "safetensors", "adapter", "mmproj"]


@dataclass(frozen=True)
class RemoteFile:
    """One file at its source.

    `name` is the path it will have below the model's folder: relative, forward slashes,
    no `..`. `locator` is what the source needs to fetch it (a URL, a digest, a member of
    an archive) and means nothing to others. `sha256` is lower-case hex, or None where the
    source publishes none.
    """

    name: str
    size_bytes: int | None
    sha256: str | None
    role: FileRole
    locator: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One thing that can be pulled from a repository: a quantization, a tag, a package."""

    name: str | None  # "Q4_K_M", "1b", a file stem; None where there is just one
    format: ModelFormat
    files: tuple[RemoteFile, ...]
    # What the source says beside the weights: template, system, parameters, license,
    # messages (Ollama), base_model (adapters)
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int | None:
        """The sum over the files, None if one is unknown."""
        sizes = [f.size_bytes for f in self.files]
        return None if None in sizes else sum(s for s in sizes if s is not None)

    @property
    def weights(self) -> tuple[RemoteFile, ...]:
        return tuple(f for f in self.files if f.role == "weights")


@dataclass(frozen=True)
class Listing:
    """What a reference leads to. `ref.revision` is pinned (commit, version, digest)."""

    ref: ModelRef
    publisher: str  # path component: "unsloth", "library", "pypi", a host
    repo: str  # path component
    variants: tuple[Variant, ...]
    page: str | None = None  # a page a person can open
    license: str | None = None
    # What cannot be pulled because shards are missing; extras["missing"] names them
    incomplete: tuple[Variant, ...] = ()


@dataclass(frozen=True)
class Fetched:
    """One file on disk, complete and verified."""

    size_bytes: int
    sha256: str
    resumed_bytes: int  # how much of it an earlier try had left
    verified: bool  # the source published a digest, and it is this one
    notes: tuple[str, ...] = ()  # what a user should hear: "the file changed at its source: ..."


def require_online(settings: Settings, what: str) -> None:
    """Raise OfflineMode where the user has switched the network off."""
    if settings.offline:
        raise OfflineMode(
            f"{what} needs the network, which is switched off",
            "unset HF_HUB_OFFLINE or LOCALLLM_OFFLINE, or `offline` in config.toml",
        )


def journal_of(partial: Path) -> Path:
    """Where a fetch notes which bytes of `partial` are there.

    It stays when the fetch is done, so that a process killed before the file got its final
    name need not fetch it again; who moves or deletes the partial deletes it too.
    """
    return partial.with_name(partial.name + ".json")


class Source(Protocol):
    """One kind of place. Errors: SourceNotFound (3), SourceUnreachable, AccessDenied,
    OfflineMode, SourceFailed (6), DamagedFile, ChecksumMismatch (7), DiskFull (1)."""

    def locate(self, ref: ModelRef) -> Listing: ...

    def read_range(self, file: RemoteFile, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`; fewer only at the end of the file."""

    def fetch(self, file: RemoteFile, partial: Path, advance: Advance) -> Fetched:
        """Bring `file` to the path `partial`, going on from what is already there.

        `advance` is called, in the calling thread, with what was resumed first, then with
        what is new; where a fetch must start over it takes back what it had counted (a
        negative amount). After a kill -9 at most one chunk is fetched again, and Ctrl-C keeps
        the partial too. The caller holds the lock on `partial`, moves it to its final name and
        deletes `journal_of(partial)`.
        """
