"""Tensors that answer alike when they are quantized: the same kind, in the same part of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_BLOCK = re.compile(r"^blk\.(\d+)\.(.+?)(?:\.weight)?$")
PARTS = 3  # the first layers, the middle, the last


def kind_of(name: str) -> str:
    """What a tensor is for: `attn_q`, `ffn_down_exps`, `token_embd`, `output`."""
    match = _BLOCK.match(name)
    return match[2] if match else name.removesuffix(".weight")


def grouped(names: Iterable[str], n_layers: int, parts: int = PARTS) -> dict[str, tuple[str, ...]]:
    """By group (`attn_q/2` is the kind in the second part of the layers; `output` is on its
    own), the tensors in it, in the order given."""
    found: dict[str, list[str]] = {}
    for name in names:
        match = _BLOCK.match(name)
        part = min(parts - 1, int(match[1]) * parts // max(1, n_layers)) if match else None
        group = kind_of(name) if part is None else f"{kind_of(name)}/{part + 1}"
        found.setdefault(group, []).append(name)
    return {group: tuple(members) for group, members in found.items()}


def group_by_tensor(groups: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The group of every tensor."""
    return {name: group for group, members in groups.items() for name in members}
