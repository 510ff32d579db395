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
