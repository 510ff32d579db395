"""Layers in another order and number: what a GGUF's metadata says of each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem
from localllm.formats.gguf.types import ValueType
from localllm.library.merging.tensors import GGUFTensors

if TYPE_CHECKING:
    from localllm.formats.gguf import GGUFModel

# Counts of layers that are special by their place from the start or the end.
_BY_PLACE = (
    "leading_dense_block_count", "nextn_predict_layers", "attention.shared_kv_layers",
    "n_layer_dense_lead",
)  # fmt: skip


def check_stackable(model: GGUFModel, note: Callable[[str], None]) -> None:
    """Raise UsageProblem where what a layer is hangs on its place in the model."""
    for key in _BY_PLACE:
        if model.arch_u32(key, 0):
            raise UsageProblem(
                f"layers of {model.name} cannot be stacked: {model.arch_key(key)} makes some of "
                "them special by their place"
            )
    window = model.arch_value("attention.sliding_window")
    pattern = model.arch_value("attention.sliding_window_pattern")
    if window and not isinstance(pattern, tuple):
        note(
            "llama.cpp gives every few layers of this architecture global attention, by their "
            "place in the model: layers that move may change theirs"
        )


def layer_arrays(
    sources: Mapping[str, GGUFTensors],
    primary: GGUFTensors,
    layers: Sequence[tuple[str, int]],
) -> dict[str, bytes]:
    """For each key with a value a layer (head counts, feed-forward sizes, window patterns), the
    elements of the result's layers."""
    model = primary.model
    prefix, n_layers = f"{model.architecture}.", model.arch_u32("block_count", 0)
    found = {}
    for key in model.metadata:
        info = model.metadata.info(key)
        if not key.startswith(prefix) or info.element_type is None:
            continue
        if info.length != n_layers or info.element_type is ValueType.STRING:
            continue
        found[key] = b"".join(_element(sources[name], key, layer) for name, layer in layers)
    return found


def _element(source: GGUFTensors, key: str, layer: int) -> bytes:
    info = source.model.metadata.info(key)
    raw = source.model.metadata.raw(key)
    width = len(raw) // info.length
    return raw[layer * width : (layer + 1) * width]
