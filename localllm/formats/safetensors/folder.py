"""A folder as Hugging Face lays out a model: config.json, weights, maybe in shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

from localllm.errors import DamagedFile, FileGone
from localllm.formats.prefix import DAMAGED_HINT
from localllm.formats.safetensors.header import (
    HEADER_LIMIT_BYTES,
    SafeTensor,
    SafetensorsHeader,
    dtype_bytes,
    read_safetensors,
)

# a full model, then a LoRA adapter of peft
WEIGHT_NAMES = ("model", "adapter_model")


@dataclass(frozen=True, eq=False)
class SafetensorsModel:
    """A folder's weights and what its config says.

    `architecture` is config.json's first ("LlamaForCausalLM"), `model_type` its own name
    ("llama"); both None where there is no config. `files` in the order of their names.
    """

    folder: Path
    kind: Literal["model", "adapter"]
    architecture: str | None
    model_type: str | None
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    shards: tuple[SafetensorsHeader, ...]
    tensors: Mapping[str, SafeTensor]
    file_of: Mapping[str, Path]  # tensor name -> its file

    @cached_property
    def n_params(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.n_elements for tensor in self.tensors.values())

    @cached_property
    def weights_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    @cached_property
    def dtypes(self) -> Mapping[str, int]:
        """Bytes of each dtype, the largest first."""
        return dtype_bytes(self.tensors.values())


def read_safetensors_folder(folder: Path) -> SafetensorsModel:
    """The weights of a model or adapter folder, all shards of it, and its config.

    Takes the index (`model.safetensors.index.json`) where there is one, then
    `model.safetensors` or `adapter_model.safetensors`, then all `*.safetensors` files.
    Raises FileGone when there are no weights or a shard is missing, DamagedFile.
    """
    kind, files, placed = _find_weights(folder)
    shards = tuple(read_safetensors(path) for path in files)
    tensors: dict[str, SafeTensor] = {}
    file_of: dict[str, Path] = {}
    for path, shard in zip(files, shards, strict=True):
        for tensor in shard.tensors.values():
            if tensor.name in tensors:
                _damaged(path, f"tensor {tensor.name!r} is also in {file_of[tensor.name].name}")
            tensors[tensor.name] = tensor
            file_of[tensor.name] = path
    for tensor_name, path in placed.items():
        if file_of.get(tensor_name) != path:
            _damaged(path, f"the index says that it has tensor {tensor_name!r}")
    config = _config(folder / ("adapter_config.json" if kind == "adapter" else "config.json"))
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    model_type = config.get("model_type")
    return SafetensorsModel(
        folder=folder,
        kind=kind,
        architecture=first if isinstance(first, str) else None,
        model_type=model_type if isinstance(model_type, str) else None,
        config=config,
        files=files,
        shards=shards,
        tensors=tensors,
        file_of=file_of,
    )


def _find_weights(
    folder: Path,
) -> tuple[Literal["model", "adapter"], tuple[Path, ...], dict[str, Path]]:
    """Kind, weight files, and where the index (if any) says each tensor is."""
    for name in WEIGHT_NAMES:
        kind: Literal["model", "adapter"] = "model" if name == "model" else "adapter"
        index = folder / f"{name}.safetensors.index.json"
        if index.exists():
            placed = _index(index)
            return kind, tuple(sorted(set(placed.values()))), placed
        single = folder / f"{name}.safetensors"
        if single.exists():
            return kind, (single,), {}
    others = tuple(sorted(folder.glob("*.safetensors")))
    if not others:
        raise FileGone(f"{folder} has no safetensors weights")
    adapter = (folder / "adapter_config.json").exists()
    return "adapter" if adapter else "model", others, {}


def _index(path: Path) -> dict[str, Path]:
    weight_map = _json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        _damaged(path, "it has no weight_map")
    placed = {}
    for tensor_name, file_name in weight_map.items():
        # a plain name: an index from elsewhere must not lead out of its folder
        plain = isinstance(file_name, str) and file_name.endswith(".safetensors")
        if not plain or "/" in file_name or "\\" in file_name:
            _damaged(path, f"it places {tensor_name!r} in {str(file_name)[:100]!r}")
        placed[tensor_name] = path.parent / file_name
    files = sorted(set(placed.values()))
    missing = [file for file in files if not file.exists()]
    if missing:
        names = ", ".join(file.name for file in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileGone(
            f"{len(missing)} of {len(files)} shards are missing: {names}{more}",
            "localllm pull fetches what is missing",
        )
    return placed


def _config(path: Path) -> dict[str, Any]:
    return _json_object(path) if path.exists() else {}


def _json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object, of a size that makes sense."""
    if path.stat().st_size > HEADER_LIMIT_BYTES:
        _damaged(path, f"larger than {HEADER_LIMIT_BYTES} bytes")
    try:
        parsed = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        _damaged(path, f"not valid JSON: {type(error).__name__}: {str(error)[:200]}")
    if not isinstance(parsed, dict):
        _damaged(path, "not a JSON object")
    return parsed


def _damaged(path: Path, what: str) -> NoReturn:
    raise DamagedFile(f"{path.name}: {what}", DAMAGED_HINT)
