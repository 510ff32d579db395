"""Which model a name, reference or path means."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from localllm.errors import DamagedFile, FileGone, ModelNotFound, UsageProblem
from localllm.library.describe import loose_model
from localllm.refs import ModelRef
from localllm.registry import Model, Registry


def find_model(text: str, registry: Registry) -> Model:
    """The registered model `text` names, or the file it is the path of, registered or not.

    Raises ModelNotFound, AmbiguousModel, FileGone, DamagedFile, InvalidReference.
    """
    ref = ModelRef.parse(text)
    try:
        return registry.resolve(ref)
    except ModelNotFound:
        if ref.scheme != "file":
            raise
    return loose_model(Path(ref.name).expanduser())


def find_gguf(text: str, registry: Registry) -> Model:
    """The same, for rooms that run or rewrite a GGUF."""
    model = find_model(text, registry)
    if model.format == "safetensors":
        raise DamagedFile(
            f"{model.name} is a safetensors model; this needs a GGUF",
            "pull a GGUF variant of it: localllm pull --list org/repo",
        )
    if model.format != "gguf":
        raise no_model(model)
    return model


def no_model(model: Model) -> DamagedFile:
    """The error for a file that is something else than the model that is needed."""
    adapter = model.format == "adapter"
    return DamagedFile(
        f"{model.name} is no language model but {'an' if adapter else 'a'} {model.format} file",
        f"localllm merge BASE --lora {model.name} makes a model of it" if adapter else None,
    )


def find_runnable(text: str, registry: Registry) -> Model:
    """The same, for rooms that answer: an adapter stands for its base with it attached.

    Raises also DamagedFile for an adapter whose base is not known or not here.
    """
    model = find_model(text, registry)
    return with_base(model, registry) if is_adapter(model) else find_gguf(text, registry)


def is_adapter(model: Model) -> bool:
    """Whether it is a LoRA adapter that llama.cpp can attach."""
    return model.format == "adapter" and model.path.suffix.lower() != ".safetensors"


def with_base(adapter: Model, registry: Registry) -> Model:
    """An adapter as the model it makes of its base. Raises ModelNotFound, DamagedFile."""
    base = _base_of(adapter, registry)
    attached = tuple(replace(f, role="adapter") for f in adapter.weights)
    return replace(
        adapter,
        format=base.format,
        architecture=base.architecture,
        file_type=base.file_type,
        n_params=base.n_params,
        n_ctx_train=base.n_ctx_train,
        files=(*base.files, *attached),
        extras={**base.extras, **adapter.extras},
    )


def _base_of(adapter: Model, registry: Registry) -> Model:
    """The model that an adapter was made from, by its digest before its name."""
    lineage = adapter.lineage
    if lineage is None or not lineage.parents:
        raise DamagedFile(
            f"{adapter.name} is an adapter, and nothing says of which model",
            f"localllm chat MODEL --lora {adapter.name}",
        )
    name, digest = lineage.parents[0]
    if digest is not None and (same := registry.with_digest(digest)) is not None:
        return same[0]
    try:
        return find_gguf(name, registry)
    except (ModelNotFound, FileGone):
        raise ModelNotFound(
            f"{adapter.name} is an adapter of {name}, which is not here any more",
            f"localllm pull {name}",
        ) from None


def find_adapter(text: str, registry: Registry) -> tuple[Path, float]:
    """`ADAPTER[:SCALE]`: a LoRA adapter's file, and how strongly it counts (1.0).

    Raises ModelNotFound, UsageProblem for a scale that is not finite, DamagedFile for what is no
    adapter.
    """
    head, colon, tail = text.rpartition(":")
    scale = _number(tail) if colon else None
    if scale is not None and not math.isfinite(scale):
        raise UsageProblem(f"an adapter's scale is a finite number, not {tail}", f"{head}:1")
    name = text if scale is None else head
    ref = ModelRef.parse(name)
    # a path means that file, which may also be a part of a registered model
    is_file = ref.scheme == "file"
    model = loose_model(Path(ref.name).expanduser()) if is_file else find_model(name, registry)
    if not is_adapter(model):
        raise DamagedFile(f"{model.name} is no LoRA adapter in GGUF form but a {model.format} file")
    return model.path, 1.0 if scale is None else scale


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
