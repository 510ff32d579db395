"""Which model a name, reference or path means."""

from __future__ import annotations

from pathlib import Path

from localllm.errors import DamagedFile, ModelNotFound
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
        raise DamagedFile(f"{model.name} is no language model but a {model.format} file")
    return model


def find_adapter(text: str, registry: Registry) -> tuple[Path, float]:
    """`ADAPTER[:SCALE]`: a LoRA adapter's file, and how strongly it counts (1.0).

    Raises ModelNotFound, DamagedFile for what is no adapter.
    """
    head, colon, tail = text.rpartition(":")
    scale = _number(tail) if colon else None
    name = text if scale is None else head
    ref = ModelRef.parse(name)
    # a path means that file, which may also be a part of a registered model
    is_file = ref.scheme == "file"
    model = loose_model(Path(ref.name).expanduser()) if is_file else find_model(name, registry)
    if model.format != "adapter" or model.path.suffix.lower() == ".safetensors":
        raise DamagedFile(f"{model.name} is no LoRA adapter in GGUF form but a {model.format} file")
    return model.path, 1.0 if scale is None else scale


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
