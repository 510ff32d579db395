"""Which weights go where: the input stays on the CPU, layers and output go to their devices.

Mirrors `llama_model_loader::create_tensor`: a tensor's place follows from its name, and each
takes its bytes padded to the buffer's alignment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from localllm.formats.gguf import GGUFView, TensorInfo
from localllm.placement import archs
from localllm.placement.shape import ModelShape

HOST_ALIGNMENT = 32  # ggml's CPU buffers (TENSOR_ALIGNMENT)
GPU_ALIGNMENT = 128  # CUDA and HIP; Vulkan and Metal ask for no more than this

_LAYER = re.compile(r"^(?:enc\.|dec\.)?blk\.(\d+)\.")
# Looked up row by row, so llama.cpp never offloads them (LLM_TENSOR_LAYER_INPUT).
_INPUT = re.compile(r"^(token_embd|position_embd|token_types|per_layer_token_embd)\.")
# One tensor in the file that every device with a layer holds a copy of.
_SHARED = re.compile(r"^rope_(freqs|factors_long|factors_short)\.")
# Without a layer number in the name, created with layer 0.
_FIRST_LAYER = re.compile(r"^(token_embd_norm|per_layer_model_proj|per_layer_proj_norm)\.")
_EXPERTS = re.compile(r"_exps\.weight$")
# What `n_cpu_moe` moves (LLM_FFN_EXPS_REGEX in llama.cpp's common.h); searched, not anchored.
_MOVED = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")


@dataclass(frozen=True)
class Weights:
    """Bytes by place. `layer_bytes` has an entry for each layer of the model.

    `output_bytes` are what the output layer holds beside a tied embedding; `tied_bytes` is the
    size of that embedding: where the output is not computed from the CPU's own buffer, it is
    there a second time. `shared_bytes` every device with a layer holds. `active_bytes` are
    what one token reads of each layer (of the experts only those used), `output_read_bytes`
    what it reads of the output. Experts that `n_cpu_moe` keeps in main memory count with the
    input, and what a token reads of them is `moved_active_bytes`.
    """

    input_bytes: int
    layer_bytes: tuple[int, ...]
    active_bytes: tuple[int, ...]
    output_bytes: int
    tied_bytes: int
    shared_bytes: int
    largest_layer_tensor_bytes: int
    moved_active_bytes: int = 0

    @property
    def all_layers_bytes(self) -> int:
        return sum(self.layer_bytes)

    @property
    def output_read_bytes(self) -> int:
        return self.output_bytes + self.tied_bytes

    @property
    def active_total_bytes(self) -> int:
        """What generating one token reads of all the weights."""
        return sum(self.active_bytes) + self.moved_active_bytes + self.output_read_bytes


def model_weights(
    header: GGUFView, shape: ModelShape, alignment: int = HOST_ALIGNMENT, n_cpu_moe: int = 0
) -> Weights:
    """Sum the tensors by place. Prediction layers (MTP) are skipped, as llama.cpp skips them."""
    layers = [0] * shape.n_layer_all
    active = [0.0] * shape.n_layer_all
    inputs = output = shared = largest = 0
    moved = 0.0
    used = shape.n_expert_used / shape.n_expert if shape.n_expert else 1.0
    for tensor in header.tensors.values():
        size = padded(tensor.size_bytes, alignment)
        if _INPUT.match(tensor.name):
            inputs += size
        elif _SHARED.match(tensor.name):
            shared += size
        elif (layer := layer_of(tensor.name, shape)) is None:
            output += size
        elif layer < shape.n_layer:
            reads = size * used if _EXPERTS.search(tensor.name) else size
            largest = max(largest, size)
            if layer < n_cpu_moe and _MOVED.search(tensor.name):
                inputs += size
                moved += reads
            else:
                layers[layer] += size
                active[layer] += reads
    return Weights(
        input_bytes=inputs,
        layer_bytes=tuple(layers),
        active_bytes=tuple(int(a) for a in active),
        output_bytes=output,
        tied_bytes=_tied_bytes(header, shape, alignment),
        shared_bytes=shared,
        largest_layer_tensor_bytes=largest,
        moved_active_bytes=int(moved),
    )


def padded(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return size + -size % alignment


def tied_embedding(header: GGUFView, shape: ModelShape) -> TensorInfo | None:
    """The token embedding, where it is the output matrix too; None where there are two, or
    where the model computes no logits."""
    if "output.weight" in header.tensors or shape.architecture in archs.NO_OUTPUT:
        return None
    return header.tensors.get("token_embd.weight")


def _tied_bytes(header: GGUFView, shape: ModelShape, alignment: int) -> int:
    tensor = tied_embedding(header, shape)
    return padded(tensor.size_bytes, alignment) if tensor else 0


def layer_of(name: str, shape: ModelShape) -> int | None:
    """The layer that a tensor belongs to, None for the output layer."""
    if match := _LAYER.match(name):
        return min(int(match[1]), shape.n_layer_all - 1)
    if _FIRST_LAYER.match(name) and not shape.architecture.startswith("lfm2"):
        return 0
    return None
