"""Everything about a model that a plan needs, read from its header once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from localllm.formats.gguf import GGUFView, TensorInfo
from localllm.hardware import Need
from localllm.placement.compute import Activations, ComputeNeed, activations, compute_need
from localllm.placement.kv import Cache, model_cache
from localllm.placement.options import PlanOptions
from localllm.placement.shape import ModelShape, model_shape
from localllm.placement.weights import (
    GPU_ALIGNMENT,
    HOST_ALIGNMENT,
    Weights,
    layer_of,
    model_weights,
    padded,
    tied_embedding,
)

# Of a ggml type's number and a matrix's columns, rows and experts (0: no stack of experts):
# whether this machine's CPU keeps a copy of it in its own layout.
Repacks = Callable[[int, int, int, int], bool]

F32 = 4


@dataclass(frozen=True)
class ModelSizes:
    """A model's shape and its weights by place, as the host and as GPUs align them."""

    name: str
    shape: ModelShape
    on_host: Weights
    on_gpu: Weights
    activations: Activations
    header: GGUFView

    def cache(self, options: PlanOptions, n_ctx: int) -> Cache:
        return model_cache(self.shape, options.cache(n_ctx))

    def compute(self, options: PlanOptions, n_ctx: int) -> ComputeNeed:
        return compute_need(self.shape, self.activations, options.cache(n_ctx))

    def logits_bytes(self, n_parallel: int) -> int:
        """llama_context's output buffer: a row of logits for each sequence."""
        return F32 * self.shape.n_vocab * n_parallel

    def need(self, options: PlanOptions, n_ctx: int, n_gpus: int) -> Need:
        """The numbers that placing layers on `n_gpus` devices is decided by."""
        cache, compute = self.cache(options, n_ctx), self.compute(options, n_ctx)
        layers = range(self.shape.n_layer_all)
        kept = tuple(cache.layer_bytes(i) for i in layers)
        on_host = sum(kept) if options.no_kv_offload else 0
        pipeline = compute.pipeline_extra_bytes if n_gpus > 1 and pipelines(options) else 0
        host = compute.host_bytes if n_gpus else compute.cpu_bytes
        # Prompts are computed on the GPU all the same: experts are copied there one by one.
        copied = self.on_gpu.largest_layer_tensor_bytes
        visiting = copied if self.on_gpu.moved_active_bytes else 0
        return Need(
            layer_bytes=self.on_gpu.layer_bytes,
            kv_bytes=(0,) * len(kept) if options.no_kv_offload else kept,
            output_bytes=self.on_gpu.output_bytes + self.on_gpu.tied_bytes,
            input_bytes=self.on_host.input_bytes + on_host,
            compute_bytes=compute.device_bytes + pipeline + self.on_gpu.shared_bytes + visiting,
            output_compute_bytes=compute.output_extra_bytes,
            partial_compute_bytes=copied - visiting,
            host_compute_bytes=host + self.logits_bytes(options.n_parallel),
        )

    def repacked_bytes(self, repacks: Repacks) -> tuple[int, int]:
        """What the CPU alone would keep in its own layout: bytes in all, and those of them
        that a tied embedding takes a second time."""
        known: dict[tuple[int, ...], bool] = {}

        def asked(tensor: TensorInfo) -> bool:
            stacked = tensor.name.endswith("_exps.weight")
            if len(tensor.shape) != (3 if stacked else 2):
                return False
            n_expert = tensor.shape[2] if stacked else 0
            key = (tensor.type.id, tensor.shape[0], tensor.shape[1], n_expert)
            if key not in known:
                known[key] = repacks(*key)
            return known[key]

        tied = tied_embedding(self.header, self.shape)
        twice = padded(tied.size_bytes, HOST_ALIGNMENT) if tied and asked(tied) else 0
        total = twice
        for tensor in self.header.tensors.values():
            layer = layer_of(tensor.name, self.shape)
            multiplied = tensor.name == "output.weight" or layer is not None
            if multiplied and (layer or 0) < self.shape.n_layer and asked(tensor):
                total += padded(tensor.size_bytes, HOST_ALIGNMENT)
        return total, twice


def pipelines(options: PlanOptions) -> bool:
    """Whether llama.cpp overlaps micro-batches where several GPUs hold the whole model
    (llama_context's constructor)."""
    return options.split_mode == "layer" and not options.no_kv_offload and not options.n_cpu_moe


def model_sizes(header: GGUFView, n_cpu_moe: int = 0) -> ModelSizes:
    """Read a header's shape and sum its tensors. Raises DamagedFile."""
    shape = model_shape(header)
    return ModelSizes(
        name=header.name,
        shape=shape,
        on_host=model_weights(header, shape, HOST_ALIGNMENT, n_cpu_moe),
        on_gpu=model_weights(header, shape, GPU_ALIGNMENT, n_cpu_moe),
        activations=activations(header),
        header=header,
    )
