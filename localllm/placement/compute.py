"""Compute buffers by arithmetic, for hardware that is not here to be asked.

A compute buffer holds the activations of one micro-batch that are alive at once. llama.cpp's
graph passes through stages (attention, feed-forward, output) whose tensors reuse each other's
memory, so the buffer is as large as its largest stage:

    bytes = 4 (float32) * n_ubatch * elements alive for one token

The elements of each stage are llama.cpp's graphs read off its own reservations over 22
architectures (benchmarks/fit_error.py measures the error and prints it: of a model's whole
need, weights and cache included, it is a few per mille; of the buffer alone up to a quarter).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from localllm.formats.gguf import GGUFView
from localllm.placement.kv import CacheOptions, Cells, cells_of
from localllm.placement.shape import ModelShape

F32 = 4
# ggml_backend_sched keeps this many copies of what passes between pipelined devices.
PIPELINE_COPIES = 4


@dataclass(frozen=True)
class ComputeNeed:
    """Bytes of compute buffers.

    `cpu_bytes`: the one buffer when nothing is offloaded. `device_bytes`: of a GPU that holds
    any layer; `output_extra_bytes`: what the one with the output layer needs on top;
    `pipeline_extra_bytes`: what each needs on top when several GPUs hold the whole model
    (llama.cpp then overlaps micro-batches); `host_bytes`: of the CPU beside GPUs, and
    `host_pipeline_extra_bytes` on top of that.
    """

    cpu_bytes: int
    device_bytes: int
    output_extra_bytes: int
    pipeline_extra_bytes: int
    host_bytes: int
    host_pipeline_extra_bytes: int


@dataclass(frozen=True)
class Activations:
    """Widths that the tensors tell, in elements for one token; 0 where a model has none.

    `feed_forward` and `expert` are what the two (or one fused) input matrices give and the
    output matrix takes, together; `expert` is of one expert.
    """

    feed_forward: int
    expert: int
    ssm_in: int  # of a Mamba layer's first projection


_FEED_FORWARD = re.compile(r"\.ffn_(gate|up|gate_up|down)(_exps)?\.weight$")


def activations(header: GGUFView) -> Activations:
    """Read the widths off the tensors, the widest layer's of each kind."""
    layers: dict[tuple[str, bool], int] = {}
    ssm_in = 0
    for tensor in header.tensors.values():
        if match := _FEED_FORWARD.search(tensor.name):
            layer = (tensor.name[: match.start()], match[2] is not None)
            n_in, n_out = (*tensor.shape, 1)[:2]
            width = n_in if match[1] == "down" else n_out
            layers[layer] = layers.get(layer, 0) + width
        elif tensor.name.endswith(".ssm_in.weight"):
            ssm_in = max(ssm_in, tensor.shape[-1])
    dense = max((n for (_, experts), n in layers.items() if not experts), default=0)
    expert = max((n for (_, experts), n in layers.items() if experts), default=0)
    return Activations(dense, expert, ssm_in)


def compute_need(shape: ModelShape, extra: Activations, options: CacheOptions) -> ComputeNeed:
    """The buffers for these options. llama.cpp reserves logits for every token of a
    micro-batch."""
    n_tokens = min(options.n_ubatch, options.n_batch, options.n_ctx)
    row = F32 * n_tokens
    cells = cells_of(shape, options)
    masks = _mask_elements(shape, cells, options.flash_attn)
    widest = row * max(_stages(shape, extra, cells, options.flash_attn))
    if extra.ssm_in:
        # A layer's projections and what the scan makes of them; the states that come out.
        states = F32 * max(1, options.n_seq_max) * max(layer.state for layer in shape.layers)
        widest = max(widest, row * 14 * extra.ssm_in // 5 + states)
    output = row * (shape.n_vocab + 2 * shape.n_embd)
    device = widest + row * masks
    passed_on = row * ((PIPELINE_COPIES - 1) * masks + PIPELINE_COPIES * shape.n_embd)
    return ComputeNeed(
        # Without offload the embedding rows and the layer's input are in the same buffer.
        cpu_bytes=max(device + row * 2 * shape.n_embd, output),
        device_bytes=device,
        output_extra_bytes=max(0, output - device),
        pipeline_extra_bytes=passed_on,
        # Embedding rows as looked up and as handed over, and the masks.
        host_bytes=row * (2 * shape.n_embd + masks),
        host_pipeline_extra_bytes=row * (PIPELINE_COPIES - 1) * (shape.n_embd + masks),
    )


def _mask_elements(shape: ModelShape, cells: Cells, flash: bool) -> int:
    """Attention masks for one token, in float32 elements: flash attention takes float16."""
    if not any(layer.caches for layer in shape.layers):
        return 0
    kinds = {layer.window for layer in shape.layers if layer.caches}
    n_cells = sum(cells.window if window else cells.full for window in kinds)
    return n_cells // 2 if flash else n_cells


def _stages(shape: ModelShape, extra: Activations, cells: Cells, flash: bool) -> list[int]:
    """Elements alive for one token in each stage of a layer, the residual's among them."""
    n_embd, used = shape.n_embd, shape.n_expert_used
    attends = [layer for layer in shape.layers if layer.caches]
    stages = [extra.feed_forward + 2 * n_embd]
    if extra.expert:
        stages.append(used * extra.expert + 2 * n_embd)
        stages.append((2 * used + 4) * n_embd)  # experts' outputs, weighted; running sum
    if shape.is_mla:
        # Queries in the latent space, again with their rotary part, and the result.
        stages.append(shape.n_head * (2 * shape.kv_lora_rank + shape.head_k))
    if shape.recurrent and not attends and not extra.ssm_in:
        stages.append(18 * n_embd)  # RWKV's mixes
    if attends and not flash:
        queries = shape.n_head * shape.head_k
        kv = max(layer.k_width + layer.v_width for layer in attends)
        n_cells = max(cells.window if layer.window else cells.full for layer in attends)
        stages.append(shape.n_head * n_cells + 2 * queries + n_embd + kv)
    return stages
