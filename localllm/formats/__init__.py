"""GGUF and safetensors as bytes: header readers, shard names, metadata copies. No inference.

Names are loaded when first used, so a command that only takes a shard's name apart does not
pay for the header readers; numpy and `gguf` are never imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localllm.formats.gguf import (
        FileType,
        GGUFHeader,
        GGUFModel,
        GGUFView,
        TensorInfo,
        combine,
        copy_with_metadata,
        fetch_header,
        model_files,
        parse_header,
        read_header,
        read_model,
    )
    from localllm.formats.prefix import NeedMoreBytes
    from localllm.formats.safetensors import (
        SafetensorsHeader,
        SafetensorsModel,
        parse_safetensors,
        read_safetensors,
        read_safetensors_folder,
    )
    from localllm.formats.shards import ShardName, shard_family, shard_name

__all__ = [
    "FileType",
    "GGUFHeader",
    "GGUFModel",
    "GGUFView",
    "NeedMoreBytes",
    "SafetensorsHeader",
    "SafetensorsModel",
    "ShardName",
    "TensorInfo",
    "combine",
    "copy_with_metadata",
    "fetch_header",
    "model_files",
    "parse_header",
    "parse_safetensors",
    "read_header",
    "read_model",
    "read_safetensors",
    "read_safetensors_folder",
    "shard_family",
    "shard_name",
]

_ELSEWHERE = {
    "NeedMoreBytes": "prefix",
    "ShardName": "shards",
    "shard_family": "shards",
    "shard_name": "shards",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "safetensors" if "safetensors" in name.lower() else _ELSEWHERE.get(name, "gguf")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
