"""How tensors are named: which layer one belongs to, and what other names it goes by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_GGUF_LAYER = re.compile(r"(blk\.)(\d+)(\..+)")
# `model.layers.3.mlp.up_proj.weight`, `transformer.h.3.attn.c_attn.weight`, `encoder.layer.3...`
_HF_LAYER = re.compile(r"(.*?\b(?:layers|layer|h|blocks)\.)(\d+)(\..+)")
_GGUF_BEFORE = re.compile(r"(?:token_|position_|per_layer_|rope_)")
_HF_BEFORE = re.compile(r"(?:embed|wte|wpe)")

# Not learned and not to be averaged: factors of the position encoding.
CONSTANT = re.compile(r"rope_(?:freqs|factors_\w+)\.weight|.*\.(?:inv_freq|masked_bias)")


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs. Of a layer: `stem` and `rest` are what stands around its number."""

    part: Literal["before", "layer", "after"]
    stem: str
    layer: int = 0
    rest: str = ""

    def at(self, layer: int) -> str:
        return f"{self.stem}{layer}{self.rest}" if self.part == "layer" else self.stem


def gguf_place(name: str) -> Place:
    return _place(name, _GGUF_LAYER, _GGUF_BEFORE)


def hf_place(name: str) -> Place:
    return _place(name, _HF_LAYER, _HF_BEFORE)


def _place(name: str, layered: re.Pattern[str], before: re.Pattern[str]) -> Place:
    if match := layered.fullmatch(name):
        return Place("layer", match[1], int(match[2]), match[3])
    return Place("before" if before.search(name) else "after", name)


def hf_names(architecture: str | None, n_layers: int) -> Mapping[str, tuple[str, ...]]:
    """GGUF tensor name -> the names that such a tensor has in Hugging Face's models, so that a
    configuration's filters ("self_attn", "mlp", "lm_head") mean the same on a GGUF."""
    import gguf

    arch = {text: number for number, text in gguf.MODEL_ARCH_NAMES.items()}.get(architecture or "")
    if arch is None:
        return {}
    found: dict[str, list[str]] = {}
    for hf, (_, own) in gguf.get_tensor_name_map(arch, n_layers).mapping.items():
        if hf != own:
            found.setdefault(own, []).append(hf)
    return {f"{own}.weight": tuple(f"{n}.weight" for n in hf) for own, hf in found.items()} | {
        f"{own}.bias": tuple(f"{n}.bias" for n in hf) for own, hf in found.items()
    }
