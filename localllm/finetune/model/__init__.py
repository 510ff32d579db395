"""GGUF and safetensors to a trainable module of transformers, and what was learned back to GGUF.

Names are loaded when first used: torch is imported by what computes with it, not by importing
this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localllm.finetune.model.adapter import (
        AdapterFile,
        LoraPair,
        adapter_gguf,
        effective_scale,
        read_adapter,
    )
    from localllm.finetune.model.fold import fold_lora
    from localllm.finetune.model.loaded import (
        DTYPES,
        LoadedModel,
        check_source,
        families,
        load_causal,
    )
    from localllm.finetune.model.save import save_gguf
    from localllm.finetune.model.scratch import write_scratch, write_vocabulary

__all__ = [
    "DTYPES",
    "AdapterFile",
    "LoadedModel",
    "LoraPair",
    "adapter_gguf",
    "check_source",
    "effective_scale",
    "families",
    "fold_lora",
    "load_causal",
    "read_adapter",
    "save_gguf",
    "write_scratch",
    "write_vocabulary",
]

_HOMES = {
    "adapter": ("AdapterFile", "LoraPair", "adapter_gguf", "effective_scale", "read_adapter"),
    "fold": ("fold_lora",),
    "loaded": ("DTYPES", "LoadedModel", "check_source", "families", "load_causal"),
    "save": ("save_gguf",),
    "scratch": ("write_scratch", "write_vocabulary"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
