"""Ollama's store on disk: manifests/<host>/<namespace>/<model>/<tag>, blobs/sha256-<hex>."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from localllm.errors import LocalLLMError
from localllm.refs import ModelRef
from localllm.sources.base import ModelFormat
from localllm.sources.found import FoundFile, FoundModel, Note
from localllm.sources.ollama_manifest import (
    MANIFEST_LIMIT_BYTES,
    TEXT_LIMIT_BYTES,
    Layer,
    Manifest,
    file_stem,
    model_files,
    model_format,
    parse_manifest,
    text_extras,
)

_DEFAULT_HOST = "registry.ollama.ai"
_DEFAULT_NAMESPACE = "library"


def ollama_store(root: Path, note: Note) -> Iterator[FoundModel]:
    """Every model of the store at `root`. What cannot be used is told to `note`."""
    manifests = root / "manifests"
    for path in _files_below(manifests, note, depth=6):
        parts = path.relative_to(manifests).parts
        if len(parts) < 3:
            continue
        host, *namespace, model, tag = parts
        try:
            found = _model(root, path, host, "/".join(namespace), model, tag)
        except (LocalLLMError, OSError) as e:
            note(f"{path}: {e}")
            continue
        yield found


def _files_below(folder: Path, note: Note, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as e:
        note(f"{folder}: {e.strerror}")
        return
    for entry in entries:
        if entry.is_symlink() or entry.name.startswith("."):
            continue
        if entry.is_dir():
            if depth:
                yield from _files_below(entry, note, depth - 1)
        else:
            yield entry


def _model(root: Path, path: Path, host: str, namespace: str, model: str, tag: str) -> FoundModel:
    name = "/".join(part for part in (host, namespace, model) if part)
    manifest = parse_manifest(_read(path, MANIFEST_LIMIT_BYTES), f"{name}:{tag}")
    files = tuple(
        FoundFile(_blob(root, f.sha256 or ""), f.name, f.role, f.size_bytes or 0, f.sha256)
        for f in model_files(manifest, f"{name}:{tag}", file_stem(model, tag))
    )
    kind: ModelFormat = model_format(manifest)
    return FoundModel(
        ref=ModelRef("ollama", _short_name(host, namespace, model), variant=tag),
        publisher=namespace.rpartition("/")[2] or host,
        repo=model,
        variant=tag,
        format=kind,
        files=files,
        extras=_extras(root, manifest, name),
        missing=tuple(f.name for f in files if _size(f.path) != f.size_bytes),
    )


def _short_name(host: str, namespace: str, model: str) -> str:
    if host != _DEFAULT_HOST:
        return "/".join(part for part in (host, namespace, model) if part)
    return model if namespace == _DEFAULT_NAMESPACE else f"{namespace}/{model}"


def _extras(root: Path, manifest: Manifest, name: str) -> dict[str, Any]:
    texts = []
    for layer in manifest.text_layers:
        path = _blob(root, layer.sha256)
        if path.is_file():
            texts.append((layer.kind, _read_layer(path, layer)))
    return text_extras(texts, name)


def _read_layer(path: Path, layer: Layer) -> bytes:
    return _read(path, min(TEXT_LIMIT_BYTES, layer.size_bytes))


def _read(path: Path, limit_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit_bytes + 1)[: limit_bytes + 1]


def _blob(root: Path, sha256: str) -> Path:
    blobs = root / "blobs"
    old = blobs / f"sha256:{sha256}"  # before Ollama 0.1.30
    return old if old.is_file() else blobs / f"sha256-{sha256}"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
