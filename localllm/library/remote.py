"""What a remote model is, from its header alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localllm.sources.base import RemoteFile, Source, Variant

if TYPE_CHECKING:
    from localllm.formats.gguf import GGUFHeader, GGUFModel


def main_files(variant: Variant) -> tuple[RemoteFile, ...]:
    """The files that the variant is about: weights in shard order, an adapter, or an mmproj;
    not what comes beside them."""
    return tuple(f for f in variant.files if f.role in ("weights", variant.format))


def is_gguf(variant: Variant) -> bool:
    """Whether it is told by GGUF headers: a model, an adapter or an mmproj in that form."""
    return all(f.name.lower().endswith(".gguf") for f in main_files(variant))


def remote_header(source: Source, variant: Variant) -> GGUFModel:
    """The header of a GGUF variant, all shards, read in ranges; no weights are fetched.

    Raises DamagedFile, and what the source raises.
    """
    from localllm.formats.gguf import combine

    return combine([_header(source, file) for file in main_files(variant)])


def _header(source: Source, file: RemoteFile) -> GGUFHeader:
    from localllm.formats.gguf import fetch_header

    return fetch_header(
        lambda start, length: source.read_range(file, start, length),
        file.size_bytes,
        name=file.name,
    )
