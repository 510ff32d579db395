"""Ollama manifests as values: which layers there are, what each is for.

A manifest is the registry's JSON list of blobs (Docker image manifest, schema 2). The same
bytes lie in the registry and in Ollama's store on disk. Everything in it is taken as
hostile: a name, a digest or a size that is not of the right form is a `DamagedFile`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localllm.errors import DamagedFile, SourceFailed
from localllm.sources.base import FileRole, ModelFormat, RemoteFile
from localllm.sources.names import safe_component, shard_name

MANIFEST_LIMIT_BYTES = 4 << 20
LAYER_LIMIT = 128  # real models have fewer than ten
TEXT_LIMIT_BYTES = 1 << 20  # a template, a system prompt, parameters, one license
LAYER_PREFIX = "application/vnd.ollama.image."
FILE_ROLES: Mapping[str, FileRole] = {
    "model": "weights",
    "projector": "mmproj",
    "adapter": "adapter",
}
TEXT_KINDS = ("template", "system", "params", "license", "messages")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


@dataclass(frozen=True)
class Layer:
    """One blob: `kind` is the last part of its media type (`model`, `template`, ...)."""

    kind: str
    sha256: str
    size_bytes: int

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha256}"


@dataclass(frozen=True)
class Manifest:
    """A manifest's layers in their order. `sha256` is that of the manifest's own bytes."""

    sha256: str
    layers: tuple[Layer, ...]
    config: Layer | None

    @property
    def revision(self) -> str:
        """What pins this manifest: its digest, written as Ollama names its blobs."""
        return f"sha256-{self.sha256}"

    def of_kind(self, kind: str) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.kind == kind)

    @property
    def text_layers(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.kind in TEXT_KINDS)


def parse_manifest(body: bytes, name: str) -> Manifest:
    """Read a manifest. `name` is what messages call the model.

    Raises DamagedFile where the bytes are no manifest or one of their values is not legal.
    """
    if len(body) > MANIFEST_LIMIT_BYTES:
        raise DamagedFile(f"the manifest of {name} is larger than {MANIFEST_LIMIT_BYTES} bytes")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise DamagedFile(f"the manifest of {name} is not JSON") from None
    if not isinstance(document, dict):
        raise DamagedFile(f"the manifest of {name} is not a JSON object")
    if "manifests" in document and "layers" not in document:
        raise DamagedFile(f"{name} is a container image for several platforms, not a model")
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise DamagedFile(f"the manifest of {name} has no list of layers")
    if len(layers) > LAYER_LIMIT:
        raise DamagedFile(
            f"the manifest of {name} lists {len(layers)} layers, at most {LAYER_LIMIT}"
        )
    config = document.get("config")
    return Manifest(
        hashlib.sha256(body).hexdigest(),
        tuple(_layer(layer, name) for layer in layers),
        _layer(config, name) if config is not None else None,
    )


def _layer(value: Any, name: str) -> Layer:
    if not isinstance(value, dict):
        raise DamagedFile(f"the manifest of {name} has a layer that is not a JSON object")
    media_type, digest, size = (value.get(k) for k in ("mediaType", "digest", "size"))
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise DamagedFile(f"the manifest of {name} has the digest {_shown(digest)}, not sha256")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 60:
        raise DamagedFile(f"the manifest of {name} has a layer of {_shown(size)} bytes")
    kind = media_type.split(";")[0] if isinstance(media_type, str) else ""
    return Layer(kind.removeprefix(LAYER_PREFIX), match[1], size)


def _shown(value: Any) -> str:
    """A hostile value, short enough for one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def model_files(manifest: Manifest, name: str, stem: str) -> tuple[RemoteFile, ...]:
    """The manifest's model, projector and adapter layers as files with human names.

    `stem` is the file name without its ending. Several model layers are shards in order.
    Raises SourceFailed, saying what there is instead, where there is nothing to load.
    """
    if not manifest.of_kind("model") and not manifest.of_kind("adapter"):
        raise SourceFailed(*_no_model(manifest, name))
    files = []
    for kind, role in FILE_ROLES.items():
        layers = manifest.of_kind(kind)
        for number, layer in enumerate(layers, start=1):
            file_name = _file_name(stem, role, number, len(layers))
            locator = {"digest": layer.digest}
            files.append(RemoteFile(file_name, layer.size_bytes, layer.sha256, role, locator))
    return tuple(files)


def model_format(manifest: Manifest) -> ModelFormat:
    return "gguf" if manifest.of_kind("model") else "adapter"


def _no_model(manifest: Manifest, name: str) -> tuple[str, str]:
    if manifest.of_kind("tensor"):
        return (
            f"{name} is kept as safetensors, which no GGUF engine loads",
            "choose a tag of it that is GGUF",
        )
    kinds = ", ".join(sorted({layer.kind for layer in manifest.layers})) or "no layers"
    return (
        f"{name} has no model to download ({kinds}): a cloud model or no model at all",
        "choose a tag that runs locally",
    )


def _file_name(stem: str, role: FileRole, number: int, count: int) -> str:
    if role == "mmproj":
        stem = f"mmproj-{stem}"
    elif role == "adapter":
        stem = f"{stem}-adapter"
    if count == 1:
        return f"{stem}.gguf"
    return f"{shard_name(stem, number, count) if role == 'weights' else f'{stem}-{number}'}.gguf"


def file_stem(model: str, tag: str) -> str:
    """`llama3.2`, `1b` -> `llama3.2-1b`, safe as a file name everywhere."""
    return safe_component(f"{model}-{tag}")


def text_extras(kinds_and_texts: list[tuple[str, bytes]], name: str) -> dict[str, Any]:
    """Template, system, params, license and messages layers as `Variant.extras`.

    `params` and `messages` are parsed JSON; several licenses are joined by a blank line.
    Raises DamagedFile for text that is not UTF-8 or not JSON where it has to be.
    """
    extras: dict[str, Any] = {}
    for kind, body in kinds_and_texts:
        try:
            text = body.decode("utf-8")
            value = json.loads(text) if kind in ("params", "messages") else text
        except (ValueError, RecursionError):
            raise DamagedFile(f"the {kind} layer of {name} cannot be read") from None
        expected = {"params": dict, "messages": list}.get(kind, str)
        if not isinstance(value, expected):
            raise DamagedFile(f"the {kind} layer of {name} is not a JSON {expected.__name__}")
        key = "parameters" if kind == "params" else kind
        extras[key] = f"{extras[key]}\n\n{value}" if kind == "license" and key in extras else value
    return extras
