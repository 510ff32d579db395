"""Everything that is known of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import NotFound
from localllm.library import header_of
from localllm.refs import ModelRef
from localllm.registry import Measurement, Model, Registry

if TYPE_CHECKING:
    from localllm.formats.gguf import GGUFView


@dataclass(frozen=True)
class TensorType:
    name: str
    tensors: int
    elements: int
    size_bytes: int


@dataclass(frozen=True)
class ShownFile:
    name: str
    path: str
    role: str
    size_bytes: int
    sha256: str | None
    owned: bool


@dataclass(frozen=True)
class Ancestor:
    """A parent, with its own parents as far as the registry still has them.

    `operation`, `parameters`, `inputs` (digests by name) and `versions` are how the model above
    was made from it.
    """

    name: str
    sha256: str | None
    operation: str | None
    present: bool
    parents: tuple[Ancestor, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownModel:
    name: str
    aliases: tuple[str, ...]
    ref: str
    source: str
    format: str
    title: str | None
    architecture: str | None
    file_type: str | None
    n_params: int | None
    bits_per_weight: float | None
    n_ctx_train: int | None
    n_layer: int | None
    n_embd: int | None
    n_head: int | None
    n_head_kv: tuple[int, ...]  # a number, or one a layer where they differ
    n_vocab: int | None
    n_expert: int | None
    n_expert_used: int | None
    sliding_window: int | None
    tensor_types: tuple[TensorType, ...]
    size_bytes: int
    added_at: float
    license: str | None
    chat_template: str | None
    system: str | None
    defaults: Mapping[str, Any]  # sampling parameters that the source gives (Ollama's)
    base_model: str | None  # what an adapter is for
    page: str | None
    files: tuple[ShownFile, ...]
    parents: tuple[Ancestor, ...]
    made_by: str | None  # the command
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]  # digests of what it was made with: imatrix, calibration text
    versions: Mapping[str, str]  # of the programs that made it
    children: tuple[str, ...]
    measurements: tuple[Measurement, ...]


def details(model: Model, registry: Registry) -> ShownModel:
    """What the index, the header, the family and the measurements say of `model`.

    Reads the header only. Raises DamagedFile, FileGone.
    """
    header = header_of(model) if model.format != "safetensors" and model.path.suffix else None
    lineage = model.lineage
    return ShownModel(
        name=model.name,
        aliases=model.aliases,
        ref=str(model.ref),
        source=model.source,
        format=model.format,
        architecture=model.architecture,
        file_type=model.file_type,
        n_params=model.n_params,
        n_ctx_train=model.n_ctx_train,
        **_facts(header),
        size_bytes=model.size_bytes,
        added_at=model.added_at,
        license=_license(model, header),
        chat_template=_template(model, header),
        system=model.extras.get("system"),
        defaults=model.extras.get("parameters") or {},
        base_model=model.extras.get("base_model"),
        page=model.extras.get("page"),
        files=tuple(
            ShownFile(f.name, str(f.path), f.role, f.size_bytes, f.sha256, f.owned)
            for f in model.files
        ),
        parents=_ancestors(model, {m.name: m for m in registry.models()}, 0),
        made_by=None if lineage is None else lineage.command,
        parameters={} if lineage is None else lineage.parameters,
        inputs={} if lineage is None else lineage.inputs,
        versions={} if lineage is None else lineage.versions,
        children=tuple(c.name for c in registry.children(model)),
        measurements=registry.measurements(model),
    )


def _facts(header: GGUFView | None) -> dict[str, Any]:
    if header is None or header.architecture is None:
        names = ("n_layer", "n_embd", "n_head", "n_vocab", "n_expert", "n_expert_used")
        none = dict.fromkeys((*names, "sliding_window", "bits_per_weight", "title"))
        return {**none, "n_head_kv": (), "tensor_types": ()}
    return {
        "title": header.text("general.name"),
        "bits_per_weight": header.bits_per_weight,
        "n_layer": header.arch_u32("block_count"),
        "n_embd": header.arch_u32("embedding_length"),
        "n_head": _one(header, "attention.head_count"),
        "n_head_kv": _several(header, "attention.head_count_kv"),
        "n_vocab": _vocabulary(header),
        "n_expert": header.arch_u32("expert_count"),
        "n_expert_used": header.arch_u32("expert_used_count"),
        "sliding_window": header.arch_u32("attention.sliding_window"),
        "tensor_types": tuple(
            TensorType(name, t.n_tensors, t.n_elements, t.size_bytes)
            for name, t in header.types.items()
        ),
    }


def _several(header: GGUFView, key: str) -> tuple[int, ...]:
    value = header.arch_value(key)
    numbers = value if isinstance(value, tuple) else (value,)
    found = tuple(n for n in numbers if isinstance(n, int))
    return found[:1] if len(set(found)) == 1 else found


def _one(header: GGUFView, key: str) -> int | None:
    return max(_several(header, key), default=None)


def _vocabulary(header: GGUFView) -> int | None:
    key = "tokenizer.ggml.tokens"
    return header.metadata.info(key).length if key in header.metadata else None


def _license(model: Model, header: GGUFView | None) -> str | None:
    known = model.extras.get("license")
    if isinstance(known, str) and known:
        return known
    return None if header is None else header.text("general.license")


def _template(model: Model, header: GGUFView | None) -> str | None:
    if isinstance(preset := model.extras.get("chat_template"), str):
        return preset  # a Modelfile's, in place of the file's own
    if header is not None and (own := header.text("tokenizer.chat_template")):
        return own
    return model.extras.get("template")


def _ancestors(model: Model, known: Mapping[str, Model], depth: int) -> tuple[Ancestor, ...]:
    if model.lineage is None or depth > 32:  # a loop can only come from a hand-made manifest
        return ()
    found = []
    for name, digest in model.lineage.parents:
        parent = known.get(name)
        above = () if parent is None else _ancestors(parent, known, depth + 1)
        here = parent is not None or (ModelRef.parse(name).scheme == "file" and Path(name).exists())
        made = model.lineage
        found.append(
            Ancestor(
                name, digest, made.operation, here, above, made.parameters, made.inputs,
                made.versions,
            )
        )  # fmt: skip
    return tuple(found)


@dataclass(frozen=True)
class MetadataValue:
    key: str
    type: str
    count: int | None  # elements of an array
    value: Any


_HEAD = 100_000


def metadata_value(model: Model, key: str) -> MetadataValue:
    """One metadata value of a GGUF. Raises NotFound with near keys."""
    header = header_of(model)
    if key not in header.metadata:
        import difflib

        near = difflib.get_close_matches(key, list(header.metadata), n=3)
        where = f"; near: {', '.join(near)}" if near else ""
        raise NotFound(
            f"{model.name} has no metadata {key!r}{where}", f"localllm show {model.name} --keys"
        )
    info = header.metadata.info(key)
    if info.element_type is None:
        return MetadataValue(key, info.type.name.lower(), None, header.metadata[key])
    kind = f"array of {info.element_type.name.lower()}"
    return MetadataValue(key, kind, info.length, list(header.metadata.head(key, _HEAD)))


def metadata_keys(model: Model) -> tuple[MetadataValue, ...]:
    """Every metadata key; of arrays the first three elements."""
    header = header_of(model)
    found = []
    for key in header.metadata:
        info = header.metadata.info(key)
        if info.element_type is None:
            found.append(MetadataValue(key, info.type.name.lower(), None, header.metadata[key]))
        else:
            kind = f"array of {info.element_type.name.lower()}"
            head = list(header.metadata.head(key, 3))
            found.append(MetadataValue(key, kind, info.length, head))
    return tuple(found)
