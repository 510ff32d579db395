"""Data sets on a Hugging Face Hub: which files of one are rows, and the files.

    hf-dataset:org/name                  the split train (or whatever the only one is called)
    hf-dataset:org/name@revision:test    another split, at a commit, tag or branch
    hf-dataset:org/name:config/train     of one configuration
    hf-dataset:org/name:data/a.jsonl     one file, or several by a pattern (data/*.parquet)

Scripts that build data sets are never run: only files of rows and texts are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm import __version__
from localllm.errors import (
    ChecksumMismatch,
    InvalidReference,
    LocalLLMError,
    SourceFailed,
    SourceNotFound,
)
from localllm.refs import ModelRef
from localllm.sources.base import Advance, Fetched, RemoteFile, require_online
from localllm.sources.dataset_files import choose_files, is_data
from localllm.sources.hub import HubSource, card_of, remote_file
from localllm.sources.hub_errors import translated
from localllm.sources.names import safe_path
from localllm.sources.retry import persist

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo

PREFIX = "hf-dataset:"
_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/(?P<name>[^/]+/[^/@:]+)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/]+)(?:/(?P<part>.+))?|/viewer.*)?/?"
)
_TIMEOUT_S = 30.0
_GRAMMAR = "hf-dataset:org/name, with @revision and :split if wanted"


@dataclass(frozen=True)
class DatasetRef:
    """`part` is a split, `config/split`, or a path or pattern of files; None takes the default."""

    name: str
    revision: str | None = None
    part: str | None = None

    @classmethod
    def matches(cls, text: str) -> bool:
        """Whether `text` is meant as a reference to a data set."""
        return text.startswith(PREFIX) or _PAGE.fullmatch(text) is not None

    @classmethod
    def parse(cls, text: str) -> DatasetRef:
        """Of `hf-dataset:org/name[@revision][:part]` or a page of the Hub. Raises
        InvalidReference."""
        if page := _PAGE.fullmatch(text):
            revision = page["revision"] if page["revision"] != "main" else None
            return cls(page["name"], revision, page["part"])
        try:
            ref = ModelRef.parse("hf:" + text.removeprefix(PREFIX).replace("*", "\u2217"))
        except InvalidReference as error:
            raise InvalidReference(_of_data(error.message), _GRAMMAR) from None
        part = ref.variant.replace("\u2217", "*") if ref.variant else None
        return cls(ref.name, ref.revision, part)

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        part = "" if self.part is None else f":{self.part}"
        return f"{PREFIX}{self.name}{revision}{part}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return re.fullmatch("[0-9a-f]{40}", self.revision or "") is not None


@dataclass(frozen=True)
class DatasetListing:
    """`ref.revision` is the commit. `files` are what the part means, in order; `splits` are the
    others that there are."""

    ref: DatasetRef
    files: tuple[RemoteFile, ...]
    split: str | None
    splits: tuple[str, ...]
    license: str | None = None


class DatasetSource(HubSource):
    """Data sets of the Hub that the settings name. Errors are those of `Source`."""

    def locate_data(self, ref: DatasetRef) -> DatasetListing:
        """The files that `ref` means, at the commit that its revision now means.

        Raises SourceNotFound where there are none, with the splits that there are.
        """
        require_online(self._settings, str(ref))
        info = self._dataset_info(ref)
        commit = info.sha or ref.revision
        listed = (remote_file(ref.name, commit, s) for s in info.siblings or ())
        files = [f for f in listed if safe_path(f.name) and is_data(f.name)]
        card = card_of(info)
        page = f"{self._endpoint}/datasets/{ref.name}/tree/{ref.revision or 'main'}"
        try:
            chosen = choose_files([f.name for f in files], ref.part, card.get("configs"))
        except SourceNotFound as error:
            raise SourceNotFound(f"{ref}: {error.message}", f"see what it has: {page}") from None
        by_name = {f.name: f for f in files}
        license = card.get("license")
        return DatasetListing(
            replace(ref, revision=commit),
            tuple(by_name[name] for name in chosen.files),
            chosen.split,
            chosen.splits,
            license if isinstance(license, str) else None,
        )

    def fetch(self, file: RemoteFile, partial: Path, advance: Advance) -> Fetched:
        try:
            return super().fetch(file, partial, advance)
        except (SourceFailed, SourceNotFound, ChecksumMismatch) as error:
            raise _told(error) from None

    def _dataset_info(self, ref: DatasetRef) -> DatasetInfo:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()
        api = HfApi(endpoint=self._endpoint, library_name="localllm", library_version=__version__)
        as_model = ModelRef("hf", ref.name, ref.revision)

        def once() -> DatasetInfo:
            with translated(as_model, f"{self._endpoint}/datasets"):
                return api.dataset_info(
                    ref.name, revision=ref.revision, timeout=_TIMEOUT_S, files_metadata=True
                )

        try:
            return persist(once, self._patience)
        except (SourceFailed, SourceNotFound, InvalidReference) as error:
            raise _told(error) from None

    def _url(self, file: RemoteFile) -> str:
        from huggingface_hub import hf_hub_url

        locator: Mapping[str, Any] = file.locator
        url: str = hf_hub_url(
            locator["repo"],
            locator["path"],
            repo_type="dataset",
            revision=locator["commit"],
            endpoint=self._endpoint,
        )
        return url


def _told(error: LocalLLMError) -> LocalLLMError:
    """The Hub's refusals are put in words for models."""
    return type(error)(_of_data(error.message), error.hint)


def _of_data(message: str) -> str:
    return (
        message.replace("model repository", "data set")
        .replace("no model listing", "no listing of a data set")
        .replace("hf:", PREFIX)
        .replace("\u2217", "*")
    )
