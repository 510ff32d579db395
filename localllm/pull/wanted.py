"""What is to be pulled: what it is called, where it belongs, and whether it is here already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from localllm.library.describe import Description
from localllm.library.remote import main_files
from localllm.pull.naming import name_of
from localllm.refs import ModelRef
from localllm.registry import Arrival, Model, Registry, Staged
from localllm.registry.resolve import slot
from localllm.sources.base import Listing, RemoteFile, Variant

_URL = ("http", "https")


@dataclass(frozen=True)
class Wanted:
    """One variant at its source. `revision` is the one that the user asked for, None where it
    follows what the source has: only a pinned model carries its revision in its name."""

    listing: Listing
    variant: Variant
    revision: str | None

    @cached_property
    def ref(self) -> ModelRef:
        """The reference of exactly this: its commit, version or manifest; a file by its path."""
        ref = self.listing.ref
        if ref.scheme in _URL:
            return ModelRef(ref.scheme, _without_login(ref.name))
        if ref.scheme == "file":
            return ModelRef("file", str(self._local_path))
        return ref.pick(self.variant.name)

    @cached_property
    def name(self) -> str:
        """What it is called if nothing else is."""
        ref = self.ref.at(self.revision)
        if ref.scheme == "pypi" and len(self.listing.variants) == 1:
            ref = ref.pick(None)
        return name_of(ref, self.listing.repo)

    @property
    def key(self) -> str:
        """The lock that whoever pulls this holds: the same at every revision, so that two who
        pull one model by different words share the work."""
        return f"pull {self.ref.at(None)}".casefold()

    @property
    def extras(self) -> dict[str, Any]:
        """What the registry keeps of what the source says beside the weights."""
        extras = dict(self.variant.extras)
        if self.listing.license:
            extras.setdefault("license", self.listing.license)
        if self.listing.page:
            extras["page"] = str(self.ref) if self.ref.scheme in _URL else self.listing.page
        if self.stamp:
            extras["stamp"] = self.stamp
        return extras

    @cached_property
    def stamp(self) -> str | None:
        """What changes with the content where the source has no revisions: the entity tags of
        URLs, sizes and times of files. None where nothing tells."""
        files = self.variant.files
        if self.ref.scheme in _URL:
            marks = [f.locator.get("stamp") for f in files]
        elif self.ref.scheme == "file":
            stats = [Path(f.locator["path"]).stat() for f in files]
            marks = [f"{s.st_size} {s.st_mtime_ns}" for s in stats]
        else:
            return None
        if None in marks:
            return None
        return hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:32]

    @cached_property
    def _local_path(self) -> Path:
        """A GGUF by its (first) file, anything else by its folder."""
        first = main_files(self.variant)[0]
        path = Path(first.locator["path"])
        return path if first.name.lower().endswith(".gguf") else path.parent

    # --- in the registry ------------------------------------------------------------------

    def same(self, model: Model) -> bool:
        """Whether a model of this name is this one, at whatever revision."""
        mine, other = self.ref, model.ref
        if mine.scheme in ("hf", "ollama", "pypi"):
            return (mine.scheme, mine.name.casefold()) == (other.scheme, other.name.casefold())
        return (mine.scheme, mine.name) == (other.scheme, other.name)

    def known(self, registry: Registry) -> Model | None:
        """The model that pulling this would replace, current or not."""
        return slot(registry.models(), self.name, self.same)[1]

    def current(self, registry: Registry) -> Model | None:
        """The model if exactly this is here: complete, and with the content the source has."""
        if self.ref.scheme == "file":
            for model in registry.models():
                if any(f.owned and f.path == self._local_path for f in model.files):
                    return model
        known = self.known(registry)
        return known if known and _is_whole(known) and self._has_content(known) else None

    def _has_content(self, model: Model) -> bool:
        published = {f.name: f.sha256 for f in self.variant.files if f.sha256}
        digests = {f.name: f.sha256 for f in model.files}
        if any(digests.get(name) != sha256 for name, sha256 in published.items()):
            return False
        revision = self.listing.ref.revision
        if revision is not None and model.ref.revision == revision:
            return True
        if self.stamp is not None and model.extras.get("stamp") == self.stamp:
            return True
        every = len(published) == len(self.variant.files)
        return every and _told(model.extras) == _told(self.extras)

    def arrival(self, staged: Sequence[Staged], facts: Description | None = None) -> Arrival:
        return Arrival(
            name=self.name,
            ref=self.ref,
            format=facts.format if facts else self.variant.format,
            source=self.listing.ref.scheme,
            publisher=self.listing.publisher,
            repo=self.listing.repo,
            variant=self.variant.name,
            architecture=facts.architecture if facts else None,
            file_type=facts.file_type if facts else None,
            n_params=facts.n_params if facts else None,
            n_ctx_train=facts.n_ctx_train if facts else None,
            extras=self.extras,
            files=tuple(staged),
        )

    def member(self, file: RemoteFile) -> str:
        """What tells a partial file of this one from those of other files and revisions."""
        return f"{file.name} {file.sha256 or self.listing.ref.revision or self.stamp}"


def _is_whole(model: Model) -> bool:
    try:
        return all(f.path.stat().st_size == f.size_bytes for f in model.files)
    except OSError:
        return False


def _told(extras: Any) -> Any:
    """What changes how a model behaves, in the form that it is kept in."""
    behaviour = ("template", "system", "parameters", "messages", "base_model")
    return json.loads(json.dumps({k: extras[k] for k in behaviour if k in extras}))


def _without_login(name: str) -> str:
    """`//user:word@host/x` -> `//host/x`: passwords are not for the index."""
    netloc = urlsplit(name).netloc
    return name.replace(f"//{netloc}", f"//{netloc.rpartition('@')[2]}", 1)
