"""What a remote model is, from its header alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localllm.sources.base import RemoteFile, Source, Variant

if TYPE_CHECKING:
    from localllm.formats.gguf import GGUFHeader, GGUFModel


def remote_header(source: Source, variant: Variant) -> GGUFModel:
    """The header of a GGUF variant, all shards, read in ranges; no weights are fetched.

    Raises DamagedFile, and what the source raises.
    """
    from localllm.formats.gguf import combine

    return combine([_header(source, file) for file in variant.files if _holds_tensors(file)])


def _holds_tensors(file: RemoteFile) -> bool:
    return file.role in ("weights", "adapter")


def _header(source: Source, file: RemoteFile) -> GGUFHeader:
    from localllm.formats.gguf import fetch_header

    return fetch_header(
        lambda start, length: source.read_range(file, start, length),
        file.size_bytes,
        name=file.name,
    )
