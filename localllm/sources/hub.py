"""Models on a Hugging Face Hub.

What is there is asked through huggingface_hub: its token, `HF_ENDPOINT`, `HF_HUB_OFFLINE`,
its errors. Files come over our own downloader, from the Hub's resolve addresses with the
headers huggingface_hub makes, for these reasons: it resumes after a kill, verifies sha256
while it goes (huggingface_hub compares sizes), keeps exact progress, and measured faster
(benchmarks/pull_speed.py). The Xet protocol (hf_xet) starts a file anew after a kill and
tells progress of its own kind; what it gains, several transfers at once, the downloader does
with ranges: the Hub serves its Xet files through the same addresses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm import __version__
from localllm.config import Settings
from localllm.errors import ChecksumMismatch, SourceNotFound
from localllm.refs import ModelRef
from localllm.sources.base import (
    Advance,
    Fetched,
    Listing,
    RemoteFile,
    Variant,
    journal_of,
    require_online,
)
from localllm.sources.http import HttpFetcher
from localllm.sources.hub_errors import explain, translated
from localllm.sources.hub_variants import classify
from localllm.sources.ledger import Tuning
from localllm.sources.names import safe_path
from localllm.sources.retry import Patience, persist

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo, ModelInfo, RepoSibling

_INFO_TIMEOUT_S = 30.0


class HubSource:
    """The Source for `hf:` references. Errors are those of `Source`."""

    def __init__(
        self,
        settings: Settings,
        *,
        patience: Patience | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._settings = settings
        self._endpoint = settings.hf_endpoint
        self._patience = patience or Patience()
        self._http = HttpFetcher(patience=self._patience, tuning=tuning, explain=explain)

    def locate(self, ref: ModelRef) -> Listing:
        """Every variant of the repository, at the commit that the revision now means."""
        require_online(self._settings, str(ref))
        info = self._info(ref)
        commit = info.sha or ref.revision
        listed = [remote_file(ref.name, commit, s) for s in info.siblings or ()]
        variants = classify(f for f in listed if safe_path(f.name))
        if not variants.complete and not variants.incomplete:
            raise SourceNotFound(
                f"hf:{ref.name} has no GGUF, safetensors or adapter files",
                f"see what it has: {self._endpoint}/{ref.name}/tree/{ref.revision or 'main'}",
            )
        publisher, _, repo = ref.name.rpartition("/")
        card = card_of(info)
        return Listing(
            ref=ref.at(commit),
            publisher=publisher or "huggingface",  # gpt2 and its like have no namespace
            repo=repo,
            variants=tuple(_with_base_model(v, card) for v in variants.complete),
            page=f"{self._endpoint}/{ref.name}",
            license=_text(card.get("license_name")) or _text(card.get("license")),
            incomplete=variants.incomplete,
        )

    def read_range(self, file: RemoteFile, start: int, length: int) -> bytes:
        require_online(self._settings, file.name)
        return self._http.read_range(self._url(file), start, length, self._headers())

    def fetch(self, file: RemoteFile, partial: Path, advance: Advance) -> Fetched:
        require_online(self._settings, file.name)
        fetched = self._http.fetch(
            self._url(file),
            partial,
            expected_size=file.size_bytes,
            sha256=file.sha256,
            headers=self._headers(),
            advance=advance,
        )
        blob_id = file.locator.get("blob_id")
        if file.sha256 is not None or blob_id is None:
            return fetched
        return _verified_as_blob(file, partial, blob_id, fetched)

    def _info(self, ref: ModelRef) -> ModelInfo:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()  # its warnings would land between our lines
        api = HfApi(endpoint=self._endpoint, library_name="localllm", library_version=__version__)

        def once() -> ModelInfo:
            with translated(ref, self._endpoint):
                return api.model_info(
                    ref.name,
                    revision=ref.revision,
                    timeout=_INFO_TIMEOUT_S,
                    files_metadata=True,
                )

        return persist(once, self._patience)

    def _url(self, file: RemoteFile) -> str:
        from huggingface_hub import hf_hub_url

        url: str = hf_hub_url(
            file.locator["repo"],
            file.locator["path"],
            revision=file.locator["commit"],
            endpoint=self._endpoint,
        )
        return url

    def _headers(self) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers

        headers: dict[str, str] = build_hf_headers(
            library_name="localllm", library_version=__version__
        )
        return headers


def remote_file(repo: str, commit: str | None, sibling: RepoSibling) -> RemoteFile:
    """A file as the Hub lists it; `classify` gives it its role."""
    lfs = sibling.lfs
    locator = {"repo": repo, "commit": commit, "path": sibling.rfilename}
    if lfs is None:
        locator["blob_id"] = sibling.blob_id
    size = lfs.size if lfs is not None else sibling.size
    sha256 = lfs.sha256 if lfs is not None else None
    return RemoteFile(sibling.rfilename, size, sha256, "text", locator)


def _verified_as_blob(file: RemoteFile, partial: Path, blob_id: str, fetched: Fetched) -> Fetched:
    """Check a small file by its git blob id: the sha1 of `blob <size>\\0` and the content."""
    digest = hashlib.sha1(b"blob %d\0" % fetched.size_bytes, usedforsecurity=False)
    with partial.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() == blob_id:
        return replace(fetched, verified=True)
    partial.unlink(missing_ok=True)
    journal_of(partial).unlink(missing_ok=True)
    raise ChecksumMismatch(
        f"{file.name} of hf:{file.locator['repo']} arrived with git id {digest.hexdigest()}, "
        f"the Hub published {blob_id}",
        "what arrived was deleted; pull again",
    )


def card_of(info: ModelInfo | DatasetInfo) -> Mapping[str, Any]:
    """What the repository's card says in its head; empty without one."""
    return info.card_data.to_dict() if info.card_data is not None else {}


def _with_base_model(variant: Variant, card: Mapping[str, Any]) -> Variant:
    """An adapter says what it adapts: `base_model` of the model card."""
    base = card.get("base_model")
    base = base[0] if isinstance(base, list) and base else base
    if variant.format != "adapter" or not isinstance(base, str):
        return variant
    return replace(variant, extras={**variant.extras, "base_model": base})


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
