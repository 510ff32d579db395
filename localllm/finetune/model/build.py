"""A module of transformers made on the meta device and given its tensors, without a copy more
than needed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from localllm.errors import EngineError
from localllm.finetune.model.quantized import (
    DeviceRows,
    FrozenRows,
    PartedRows,
    QuantizedEmbedding,
    QuantizedLinear,
)
from localllm.finetune.model.stored import Stored, Weights
from localllm.finetune.model.torch_types import by_torch
from localllm.formats.hf import Layout, Slot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOAT_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Way:
    """How to build. `hf_names`: the tensors have transformers' names and layouts already.
    `empty`: parameters stay on the meta device, for `training.sharding` to fill. `device` is where
    they are to be computed with, `matrices` what those of the layers are held in as numbers."""

    dtype: str
    frozen: str
    eager: bool
    hf_names: bool = False
    empty: bool = False
    device: torch.device = field(default=torch.device("cpu"))
    matrices: str | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        return _dtype(self.dtype)

    def dtype_of(self, module: PreTrainedModel, slot: Slot) -> torch.dtype:
        """What a tensor is held in as numbers: `matrices` are those of the layers' products."""
        if self.matrices is None or not _is_layers_linear(module, slot):
            return self.torch_dtype
        return _dtype(self.matrices)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def config_of(model_type: str, values: Mapping[str, Any], name: str) -> PretrainedConfig:
    """transformers' config of these values. Raises EngineError where it refuses them."""
    try:
        return AutoConfig.for_model(model_type, **values)
    except _refusals() as error:
        why = " ".join(str(error).split())
        raise EngineError(f"{name}: transformers refuses its sizes: {why[:300]}") from None


def _refusals() -> tuple[type[Exception], ...]:
    """What its validators raise; some are of huggingface_hub, which only `sources` imports."""
    plain = (TypeError, ValueError, KeyError)
    errors = sys.modules.get("huggingface_hub.errors")
    strict = getattr(errors, "StrictDataclassError", None)
    return (*plain, strict) if isinstance(strict, type) else plain


def build(
    model_type: str,
    config: PretrainedConfig | Mapping[str, Any],
    slots: Sequence[Slot],
    weights: Weights,
    way: Way,
    *,
    divisor: NDArray[np.float32] | None = None,
) -> PreTrainedModel:
    """The module with every slot filled (none, where it is to be empty). Its parameters want no
    gradients yet."""
    if not isinstance(config, PretrainedConfig):
        values = {key: value for key, value in config.items() if key != "model_type"}
        config = config_of(model_type, values, weights.name)
    with torch.device("meta"):
        make: Any = AutoModelForCausalLM.from_config
        module: PreTrainedModel = make(
            config,
            dtype=way.torch_dtype,
            attn_implementation="eager" if way.eager else "sdpa",
        )
    _fill_buffers(module, divisor, way.device)
    state: dict[str, torch.Tensor] = {}
    for slot in slots:
        stored = weights[slot.hf if way.hf_names else slot.gguf]
        layout = Layout() if way.hf_names else slot.layout
        rows = _rows(module, slot, stored, layout, way)
        if rows is not None:
            _keep_bytes(module, slot, rows, way)
        elif not way.empty:
            found = tensor_of(stored, layout, way.dtype_of(module, slot)).to(way.device)
            if found.data_ptr() != stored.data.ctypes.data:  # it is not the mapped file itself
                stored.let_go()
            state[slot.hf] = found
        elif (dtype := way.dtype_of(module, slot)) != way.torch_dtype:
            module.get_submodule(slot.module).to(dtype)  # without numbers yet
    module.load_state_dict(state, strict=False, assign=True)
    if all(slot.hf != "lm_head.weight" for slot in slots):
        _tie(module)
    if not way.empty:
        _check_filled(module, weights.name)
    return module


def tensor_of(stored: Stored, layout: Layout, dtype: torch.dtype) -> torch.Tensor:
    """A stored tensor as transformers has it. Where type and order are the file's own it is the
    mapped file itself (private: writing to it leaves the file alone)."""
    kind = FLOAT_TYPES.get(stored.type.name.lower())
    if kind is None or layout.shift:
        return torch.from_numpy(layout.to_hf(stored.numbers())).to(dtype)
    found = torch.from_numpy(stored.data).view(kind).reshape(stored.shape)
    order = layout.row_order(stored.shape[0])
    if order is not None:
        found = found[torch.from_numpy(order)]
    return found.to(dtype)


def bare(layer: nn.Module) -> nn.Module:
    """The layer itself where an adapter's layer holds it (peft's, and training's own)."""
    for name in ("base_layer", "base"):
        inner = layer._modules.get(name)
        if inner is not None:
            return inner
    return layer


def _rows(
    module: PreTrainedModel, slot: Slot, stored: Stored, layout: Layout, way: Way
) -> FrozenRows | None:
    """How a frozen matrix is kept where that is not as numbers; None where it is."""
    if way.frozen == "nf4" and _is_layers_linear(module, slot):
        from localllm.finetune.model.nf4 import Nf4Rows

        return Nf4Rows(stored, layout, way.device)
    if way.frozen == "dense" or not _smaller(stored, way.torch_dtype):
        return None
    if way.device.type == "cpu":
        return (PartedRows if way.empty else FrozenRows)(stored, layout)
    if not by_torch(stored.type.name):
        return None  # of the rare types that only ggml reads
    return PartedRows(stored, layout) if way.empty else DeviceRows(stored, layout, way.device)


def _is_layers_linear(module: PreTrainedModel, slot: Slot) -> bool:
    """Whether it is the matrix of a linear layer inside a block; those outside stay as precise as
    they are, as QLoRA leaves them."""
    layer = module.get_submodule(slot.module)
    return isinstance(layer, nn.Linear) and ".layers." in slot.module and len(slot.shape) == 2


def _smaller(stored: Stored, dtype: torch.dtype) -> bool:
    """Whether it is a matrix that takes fewer bytes in the file than as numbers."""
    bytes_each = stored.type.block_bytes / stored.type.block_elements
    return len(stored.shape) == 2 and bytes_each < dtype.itemsize


def _keep_bytes(module: PreTrainedModel, slot: Slot, rows: FrozenRows, way: Way) -> None:
    old = module.get_submodule(slot.module)
    new: nn.Module
    if isinstance(old, nn.Embedding):
        scale = getattr(old, "scalar_embed_scale", None)
        new = QuantizedEmbedding(rows, old.padding_idx, way.torch_dtype, scale)
    else:
        assert isinstance(old, nn.Linear)
        # its bias, if it has one, comes with the state
        new = QuantizedLinear(rows, None if old.bias is None else old.bias.data)
    if isinstance(rows, PartedRows):
        rows.hold_in(new)
    elif isinstance(new, QuantizedEmbedding):
        new.like = new.get_buffer("like").to(way.device)
    _replace(module, slot.module, new)


def _tie(module: PreTrainedModel) -> None:
    """The output layer is the embedding: the same parameter, or the same bytes."""
    embedding, head = module.get_submodule("model.embed_tokens"), module.get_submodule("lm_head")
    if isinstance(embedding, QuantizedEmbedding):
        _replace(module, "lm_head", QuantizedLinear(embedding.rows, None))
    else:
        head.weight = embedding.weight


def _replace(module: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)


def _fill_buffers(
    module: PreTrainedModel, divisor: NDArray[np.float32] | None, device: torch.device
) -> None:
    """Buffers that are in no file (rope's frequencies, Gemma's scale), by the code that
    `from_pretrained` uses for them, on the CPU; then put on `device`. Parameters are on the meta
    device still."""
    fill: Any = module._init_weights
    for part in module.modules():
        waiting = [name for name, one in part._buffers.items() if one is not None and one.is_meta]
        for name in waiting:
            part._buffers[name] = torch.empty_like(part.get_buffer(name), device="cpu")
        if waiting:
            with torch.no_grad():
                fill(part)
    if divisor is not None:
        rotary = module.get_submodule("model.rotary_emb")
        for name in ("inv_freq", "original_inv_freq"):
            rotary.get_buffer(name).div_(torch.from_numpy(divisor))
    for part in module.modules():
        for name, one in part._buffers.items():
            part._buffers[name] = None if one is None else one.to(device)


def _check_filled(module: PreTrainedModel, name: str) -> None:
    held = (*module.named_parameters(), *module.named_buffers())
    empty = [key for key, one in held if one.is_meta]
    if empty:
        raise EngineError(f"{name}: transformers wants {empty[0]}, for which there is no tensor")
