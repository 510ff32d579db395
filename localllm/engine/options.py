"""What a model is loaded with and what a context is made of, as plain values.

Fields carry llama.cpp's own names; defaults are llama-bench's where it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

# Called once per graph node: first with ask=True (answer whether you want its data), then,
# if so, with ask=False once it is computed (answer False to stop the computation).
# The argument is the address of the ggml_tensor.
EvalHook = Callable[[int, bool], bool]

SplitMode = Literal["none", "layer", "row", "tensor"]
FlashAttention = Literal["auto", "on", "off"]
Pooling = Literal["unspecified", "none", "mean", "cls", "last", "rank"]

SPLIT_MODES: Mapping[str, int] = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
FLASH_ATTENTION: Mapping[str, int] = {"auto": -1, "off": 0, "on": 1}
POOLING: Mapping[str, int] = {
    "unspecified": -1, "none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4,
}  # fmt: skip

# ggml types that llama.cpp takes for the KV cache (common/arg.cpp, kv_cache_types).
KV_TYPES: Mapping[str, int] = {
    "f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "iq4_nl": 20,
    "q5_0": 6, "q5_1": 7,
}  # fmt: skip


@dataclass(frozen=True)
class LoadOptions:
    """How weights are placed.

    `n_gpu_layers` -1 offloads all layers (the output layer counts as one more); on a build
    without GPU it changes nothing. `n_cpu_moe` keeps the expert weights of the first so many
    layers on the CPU. `main_gpu` is the one of `split_mode` "none", an index into the devices.
    `tensor_split` gives each device's share, empty = by free memory. `devices` names the devices
    to use, in ggml's spelling ("CUDA0"); None = all.
    `overrides` replaces metadata keys while loading. `no_alloc` reads the metadata and
    simulates the allocation, so that a context can be measured without the memory.
    """

    n_gpu_layers: int = -1
    n_cpu_moe: int = 0
    split_mode: SplitMode = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    devices: tuple[str, ...] | None = None
    mmap: bool = True
    mlock: bool = False
    vocab_only: bool = False
    check_tensors: bool = False
    no_alloc: bool = False
    overrides: Mapping[str, int | float | bool | str] = field(default_factory=dict)


@dataclass(frozen=True)
class ContextOptions:
    """A context's sizes and cache.

    `n_ctx` 0 takes the trained length. `n_ctx` is shared by `n_seq_max` sequences: equally,
    or first come first served when `kv_unified`. `n_threads` 0 takes `default_threads()`;
    `n_threads_batch` 0 takes the same as `n_threads`. `swa_full` keeps sliding-window layers
    at full size, which makes any prefix reusable and costs their memory. `n_outputs_max` bounds
    the tokens of a batch whose logits are wanted, and with them llama.cpp's buffer of n_vocab
    floats each; 0 = n_batch. More in one batch ends the process. `embeddings` makes every token
    an output; `pooling` says how they become one vector a sequence.
    """

    n_ctx: int = 4096
    n_batch: int = 2048
    n_ubatch: int = 512
    n_seq_max: int = 1
    n_outputs_max: int = 0
    n_threads: int = 0
    n_threads_batch: int = 0
    flash_attn: FlashAttention = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    embeddings: bool = False
    pooling: Pooling = "unspecified"
    swa_full: bool = False
    kv_unified: bool = False
    offload_kqv: bool = True
    op_offload: bool = True
    eval_hook: EvalHook | None = None
