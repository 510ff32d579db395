"""Which layers of a model `--targets` means. Without torch: the plan needs it too."""

from __future__ import annotations

from collections.abc import Collection

# What the parts of a layer are called in transformers' models. Fused layers stand for each part.
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "c_fc", "c_proj")
GROUPS = {"all": (*ATTENTION, *FEED_FORWARD), "attention": ATTENTION, "mlp": FEED_FORWARD}
_FUSED = {
    "q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj",
}  # fmt: skip


def meant(target: str, known: Collection[str]) -> set[str]:
    """The layers among `known` that `target`, a layer's name or a group, means.

    A part that the model computes in one fused layer (Phi 3's q, k and v) means that layer.
    """
    named = GROUPS.get(target, (target,))
    return {part if part in known else _FUSED.get(part, part) for part in named} & set(known)
