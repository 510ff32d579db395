"""What a user wants of a model, as far as memory depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from localllm.engine.options import ContextOptions, FlashAttention, Pooling, SplitMode
from localllm.errors import UsageProblem
from localllm.placement.kv import CacheOptions
from localllm.placement.shape import ModelShape

# The context that is planned for when nobody says one: a long conversation, or a few files of
# code with it. An 8B model's cache is then 1 GiB. The trained context, which is what other
# tools silently take, would be 16 GiB for the same model.
DEFAULT_N_CTX = 8192


@dataclass(frozen=True)
class PlanOptions:
    """`n_ctx` is what each of `n_parallel` conversations may use; None takes the default.

    `n_gpu_layers` None offloads all that fits; a number is the user's own choice (the output
    layer counts as one). `tensor_split` empty shares layers out by the plan. `split_mode` "none"
    uses `main_gpu` alone (below 0: no GPU); "row" and "tensor" over several GPUs are not planned.
    `n_cpu_moe` keeps the experts of the first so many layers in main memory, `no_kv_offload` the
    cache. `embeddings` is for a context that makes vectors: its arithmetic is that of one that
    generates, only llama.cpp's dry run knows better. Everything else is llama.cpp's, by its names.
    """

    n_ctx: int | None = None
    n_parallel: int = 1
    type_k: str = "f16"
    type_v: str = "f16"
    n_batch: int = 2048
    n_ubatch: int = 512
    flash_attn: FlashAttention = "auto"
    kv_unified: bool = False
    swa_full: bool = False
    n_gpu_layers: int | None = None
    n_cpu_moe: int = 0
    split_mode: SplitMode = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    no_kv_offload: bool = False
    mmap: bool = True
    embeddings: bool = False
    pooling: Pooling = "unspecified"

    def __post_init__(self) -> None:
        for name in ("n_parallel", "n_batch", "n_ubatch"):
            if getattr(self, name) < 1:
                raise UsageProblem(f"{name} must be at least 1")
        if self.n_ctx is not None and self.n_ctx < 1:
            raise UsageProblem("the context must be at least 1 token", "--ctx 8192")

    def wanted_n_ctx(self, shape: ModelShape) -> int:
        """The context of one conversation: what was asked for, else the default, or what the
        model was trained for where that is less."""
        if self.n_ctx is not None:
            return self.n_ctx
        return min(DEFAULT_N_CTX, shape.n_ctx_train or DEFAULT_N_CTX)

    def cache(self, n_ctx: int) -> CacheOptions:
        """For conversations of `n_ctx` tokens each."""
        return CacheOptions(
            n_ctx=n_ctx * self.n_parallel,
            n_batch=self.n_batch,
            n_ubatch=self.n_ubatch,
            n_seq_max=self.n_parallel,
            type_k=self.type_k,
            type_v=self.type_v,
            kv_unified=self.kv_unified,
            swa_full=self.swa_full,
            flash_attn=self.flash_attn != "off",
        )

    def context(self, n_ctx: int) -> ContextOptions:
        """The engine's options for conversations of `n_ctx` tokens each."""
        return ContextOptions(
            n_ctx=n_ctx * self.n_parallel,
            n_batch=self.n_batch,
            n_ubatch=self.n_ubatch,
            n_seq_max=self.n_parallel,
            flash_attn=self.flash_attn,
            type_k=self.type_k,
            type_v=self.type_v,
            swa_full=self.swa_full,
            kv_unified=self.kv_unified,
            offload_kqv=not self.no_kv_offload,
            embeddings=self.embeddings,
            pooling=self.pooling,
        )
