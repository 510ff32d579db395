"""Headers of published models at their real shapes, written as sparse files.

    path = write(SHAPES["llama3.1-70b"](), folder)          # 42.5 GB that use no disk
    path = write(SHAPES["llama3.1-8b"](mix="Q8_0"), folder)
    path = write(SHAPES["gemma2-9b"](n_layer=2, n_vocab=8192), folder)   # small enough to load

Shapes are those of the models' own config.json, types those of llama.cpp's quantizer for the
named mix. The vocabulary is left out (`no_vocab`; llama.cpp fills in dummy tokens), so a
header has a few kilobytes and loads in milliseconds. Hybrids and recurrent models are in
`real_hybrids`, and in `SHAPES` here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.gguf_writer import F32, GGML_TYPES, U32, Arr, T, Val, write_sparse

# mix -> (matrices, the more important ones, token embedding, output)
MIXES = {
    "F16": ("F16", "F16", "F16", "F16"),
    "Q8_0": ("Q8_0", "Q8_0", "Q8_0", "Q8_0"),
    "Q6_K": ("Q6_K", "Q6_K", "Q6_K", "Q6_K"),
    "Q4_K_M": ("Q4_K", "Q6_K", "Q4_K", "Q6_K"),
    "Q4_0": ("Q4_0", "Q4_0", "Q4_0", "Q6_K"),
    "MXFP4": ("MXFP4", "MXFP4", "Q8_0", "Q8_0"),
}


@dataclass
class RealShape:
    """Metadata and tensors in the making."""

    arch: str
    n_layer: int
    n_embd: int
    n_vocab: int
    mix: str
    n_ctx_train: int
    tied: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: list[T] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.set("block_count", U32(self.n_layer))
        self.set("context_length", U32(self.n_ctx_train))
        self.set("embedding_length", U32(self.n_embd))
        self.set("vocab_size", U32(self.n_vocab))
        _, _, embedding, output = MIXES[self.mix]
        # A tied embedding is quantized as the output that it also is.
        self.add(
            "token_embd.weight", (self.n_embd, self.n_vocab), output if self.tied else embedding
        )
        self.vector("output_norm.weight", self.n_embd)
        if not self.tied:
            self.add("output.weight", (self.n_embd, self.n_vocab), output)

    def set(self, key: str, value: Any) -> None:
        self.metadata[f"{self.arch}.{key}"] = value

    def per_layer(self, key: str, values: Sequence[int]) -> None:
        self.set(key, Arr("u32", list(values)))

    def add(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        if shape[0] % GGML_TYPES[dtype][1]:
            dtype = "Q8_0" if shape[0] % 32 == 0 else "F16"
        self.tensors.append(T(name, shape, dtype))

    def vector(self, name: str, *shape: int) -> None:
        self.tensors.append(T(name, shape, "F32"))

    def matrix(self, name: str, *shape: int, layer: int = -1) -> None:
        """In the mix's type; `layer` >= 0: in the better type where the quantizer spends it."""
        base, better, _, _ = MIXES[self.mix]
        n = self.n_layer  # use_more_bits in llama.cpp's llama-quant.cpp
        more = layer >= 0 and (layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2)
        self.add(name, shape, better if more else base)

    def attention(
        self, i: int, n_head: int, n_kv: int, head: int, *,
        bias: bool = False, norms: bool = False, v_head: int = 0,
    ) -> None:  # fmt: skip
        b, v_head = f"blk.{i}.", v_head or head
        self.matrix(b + "attn_q.weight", self.n_embd, n_head * head)
        self.matrix(b + "attn_k.weight", self.n_embd, n_kv * head)
        self.matrix(b + "attn_v.weight", self.n_embd, n_kv * v_head, layer=i)
        self.matrix(b + "attn_output.weight", n_head * v_head, self.n_embd)
        if bias:
            for name, n in (("q", n_head), ("k", n_kv), ("v", n_kv)):
                self.vector(f"{b}attn_{name}.bias", n * head)
        if norms:
            self.vector(b + "attn_q_norm.weight", head)
            self.vector(b + "attn_k_norm.weight", head)

    def feed_forward(self, i: int, n_ff: int, suffix: str = "") -> None:
        b = f"blk.{i}."
        self.matrix(f"{b}ffn_gate{suffix}.weight", self.n_embd, n_ff)
        self.matrix(f"{b}ffn_up{suffix}.weight", self.n_embd, n_ff)
        self.matrix(f"{b}ffn_down{suffix}.weight", n_ff, self.n_embd, layer=i)

    def experts(self, i: int, n_expert: int, n_ff: int) -> None:
        b = f"blk.{i}."
        self.vector(b + "ffn_gate_inp.weight", self.n_embd, n_expert)
        self.matrix(b + "ffn_gate_exps.weight", self.n_embd, n_ff, n_expert)
        self.matrix(b + "ffn_up_exps.weight", self.n_embd, n_ff, n_expert)
        self.matrix(b + "ffn_down_exps.weight", n_ff, self.n_embd, n_expert, layer=i)

    def heads(self, n_head: int, n_kv: int, key: int, value: int = 0, *, rope: int = 0) -> None:
        self.set("attention.head_count", U32(n_head))
        self.set("attention.head_count_kv", U32(n_kv))
        self.set("attention.key_length", U32(key))
        self.set("attention.value_length", U32(value or key))
        self.set("attention.layer_norm_rms_epsilon", F32(1e-5))
        self.set("rope.dimension_count", U32(rope or key))

    @property
    def weight_bytes(self) -> int:
        return sum(t.size_bytes for t in self.tensors)


def write(shape: RealShape, folder: Path, name: str = "model.gguf") -> Path:
    """The header and a hole of the model's full size."""
    general = {
        "general.architecture": shape.arch,
        "general.name": shape.arch,
        "tokenizer.ggml.model": "no_vocab",
    }
    return write_sparse(folder / name, general | shape.metadata, shape.tensors)


def dense(
    arch: str, n_layer: int, n_embd: int, n_ff: int, n_head: int, n_kv: int, head: int,
    n_vocab: int, n_ctx: int, mix: str = "Q4_K_M", *, tied: bool = False, bias: bool = False,
    norms: bool = False, post_norms: bool = False, ffn_norm: bool = True,
    experts: tuple[int, int, int] | None = None,
    **keys: Any,
) -> RealShape:  # fmt: skip
    """llama and its relations. `experts` is (count, used, feed-forward length of one)."""
    shape = RealShape(arch, n_layer, n_embd, n_vocab, mix, n_ctx, tied)
    shape.heads(n_head, n_kv, head)
    shape.set("feed_forward_length", U32(n_ff))
    if experts:
        shape.set("expert_count", U32(experts[0]))
        shape.set("expert_used_count", U32(experts[1]))
        shape.set("expert_feed_forward_length", U32(experts[2]))
    for key, value in keys.items():
        shape.set(key.replace("__", "."), value)
    for i in range(n_layer):
        shape.vector(f"blk.{i}.attn_norm.weight", n_embd)
        if ffn_norm:
            shape.vector(f"blk.{i}.ffn_norm.weight", n_embd)
        shape.attention(i, n_head, n_kv, head, bias=bias, norms=norms)
        if post_norms:
            shape.vector(f"blk.{i}.post_attention_norm.weight", n_embd)
            shape.vector(f"blk.{i}.post_ffw_norm.weight", n_embd)
        if experts:
            shape.experts(i, experts[0], experts[2])
        else:
            shape.feed_forward(i, n_ff)
    return shape


def llama(n_layer: int, n_embd: int, n_ff: int, n_head: int, **options: Any) -> RealShape:
    """Llama 3.1: rope_freqs.weight is one tensor that every device with a layer holds."""
    shape = dense("llama", n_layer, n_embd, n_ff, n_head, 8, 128, **options)
    shape.vector("rope_freqs.weight", 64)
    return shape


def gemma2(
    n_layer: int, n_embd: int, n_ff: int, n_head: int, n_kv: int, head: int, **options: Any
) -> RealShape:
    return dense(
        "gemma2", n_layer, n_embd, n_ff, n_head, n_kv, head, n_ctx=8192, tied=True,
        post_norms=True, attention__sliding_window=U32(4096), **options,
    )  # fmt: skip


def phi3(*, n_layer: int = 32, n_vocab: int = 32064, mix: str = "F16") -> RealShape:
    """Phi 3.5 mini: q, k and v in one tensor, gate and up in one, long and short rope factors."""
    n_embd, n_ff, head = 3072, 8192, 96
    shape = RealShape("phi3", n_layer, n_embd, n_vocab, mix, 131072)
    shape.heads(32, 32, head)
    shape.set("feed_forward_length", U32(n_ff))
    shape.set("attention.sliding_window", U32(262144))  # llama.cpp ignores it for this family
    shape.vector("rope_factors_long.weight", head // 2)
    shape.vector("rope_factors_short.weight", head // 2)
    for i in range(n_layer):
        b = f"blk.{i}."
        shape.vector(b + "attn_norm.weight", n_embd)
        shape.matrix(b + "attn_qkv.weight", n_embd, 3 * n_embd)
        shape.matrix(b + "attn_output.weight", n_embd, n_embd)
        shape.vector(b + "ffn_norm.weight", n_embd)
        shape.matrix(b + "ffn_up.weight", n_embd, 2 * n_ff)
        shape.matrix(b + "ffn_down.weight", n_ff, n_embd, layer=i)
    return shape


def deepseek2(
    n_layer: int, n_embd: int, n_ff: int, n_head: int, q_rank: int, experts: tuple[int, int, int],
    *, n_vocab: int, n_dense: int, mix: str = "Q4_K_M", n_shared: int = 2,
) -> RealShape:  # fmt: skip
    """MLA: one compressed row of 512 + 64 numbers a token and layer serves as K and V."""
    kv_rank, nope, rope, v_head = 512, 128, 64, 128
    shape = RealShape("deepseek2", n_layer, n_embd, n_vocab, mix, 163840)
    shape.heads(n_head, 1, kv_rank + rope, kv_rank, rope=rope)
    for key, value in (
        ("feed_forward_length", n_ff), ("leading_dense_block_count", n_dense),
        ("attention.kv_lora_rank", kv_rank), ("attention.key_length_mla", nope + rope),
        ("attention.value_length_mla", v_head), ("expert_count", experts[0]),
        ("expert_used_count", experts[1]), ("expert_feed_forward_length", experts[2]),
        ("expert_shared_count", n_shared),
    ):  # fmt: skip
        shape.set(key, U32(value))
    shape.set("expert_weights_scale", F32(1.0))
    if q_rank:
        shape.set("attention.q_lora_rank", U32(q_rank))
    for i in range(n_layer):
        b = f"blk.{i}."
        shape.vector(b + "attn_norm.weight", n_embd)
        if q_rank:
            shape.vector(b + "attn_q_a_norm.weight", q_rank)
            shape.matrix(b + "attn_q_a.weight", n_embd, q_rank)
            shape.matrix(b + "attn_q_b.weight", q_rank, n_head * (nope + rope))
        else:
            shape.matrix(b + "attn_q.weight", n_embd, n_head * (nope + rope))
        shape.vector(b + "attn_kv_a_norm.weight", kv_rank)
        shape.matrix(b + "attn_kv_a_mqa.weight", n_embd, kv_rank + rope)
        shape.matrix(b + "attn_k_b.weight", nope, kv_rank, n_head)
        shape.matrix(b + "attn_v_b.weight", kv_rank, v_head, n_head)
        shape.matrix(b + "attn_output.weight", n_head * v_head, n_embd)
        shape.vector(b + "ffn_norm.weight", n_embd)
        if i < n_dense:
            shape.feed_forward(i, n_ff)
        else:
            shape.experts(i, experts[0], experts[2])
            shape.feed_forward(i, experts[2] * n_shared, "_shexp")
    return shape


def gpt_oss(*, n_layer: int = 24, n_vocab: int = 201088, mix: str = "MXFP4") -> RealShape:
    """gpt-oss 20B: windows of 128 tokens in every other layer, experts in MXFP4, the rest Q8_0."""
    n_embd, n_head, n_kv, head, n_expert, n_ff = 2880, 64, 8, 64, 32, 2880
    shape = RealShape("gpt-oss", n_layer, n_embd, n_vocab, mix, 131072)
    shape.heads(n_head, n_kv, head)
    shape.set("attention.sliding_window", U32(128))
    shape.set("expert_count", U32(n_expert))
    shape.set("expert_used_count", U32(4))
    shape.set("expert_feed_forward_length", U32(n_ff))
    shape.set("feed_forward_length", U32(n_ff))
    for i in range(n_layer):
        b = f"blk.{i}."
        shape.vector(b + "attn_norm.weight", n_embd)
        shape.vector(b + "post_attention_norm.weight", n_embd)
        for name, n_in, n_out in (
            ("attn_q", n_embd, n_head * head), ("attn_k", n_embd, n_kv * head),
            ("attn_v", n_embd, n_kv * head), ("attn_output", n_head * head, n_embd),
        ):  # fmt: skip
            shape.add(f"{b}{name}.weight", (n_in, n_out), "Q8_0")
            shape.vector(f"{b}{name}.bias", n_out)
        shape.vector(b + "attn_sinks.weight", n_head)
        shape.experts(i, n_expert, n_ff)
        shape.vector(b + "ffn_gate_inp.bias", n_expert)
        for name in ("gate", "up", "down"):
            shape.vector(f"{b}ffn_{name}_exps.bias", n_ff, n_expert)
    return shape


def _preset(build: Callable[..., RealShape], **preset: Any) -> Callable[..., RealShape]:
    def make(**changes: Any) -> RealShape:
        return build(**(preset | changes))

    return make


_GEMMA3_PATTERN = {"attention__sliding_window": U32(1024), "post_norms": True, "norms": True}

SHAPES: dict[str, Callable[..., RealShape]] = {
    "llama3.1-8b": _preset(llama, n_layer=32, n_embd=4096, n_ff=14336, n_head=32,
                           n_vocab=128256, n_ctx=131072),
    "llama3.1-70b": _preset(llama, n_layer=80, n_embd=8192, n_ff=28672, n_head=64,
                            n_vocab=128256, n_ctx=131072),
    # llama.cpp reads no window for the llama family: the whole context is kept.
    "mistral-7b": _preset(dense, arch="llama", n_layer=32, n_embd=4096, n_ff=14336, n_head=32,
                          n_kv=8, head=128, n_vocab=32000, n_ctx=32768,
                          attention__sliding_window=U32(4096)),
    "qwen2-7b": _preset(dense, arch="qwen2", n_layer=28, n_embd=3584, n_ff=18944, n_head=28,
                        n_kv=4, head=128, n_vocab=152064, n_ctx=32768, bias=True),
    "qwen3-8b": _preset(dense, arch="qwen3", n_layer=36, n_embd=4096, n_ff=12288, n_head=32,
                        n_kv=8, head=128, n_vocab=151936, n_ctx=40960, norms=True),
    "qwen3moe-30b": _preset(dense, arch="qwen3moe", n_layer=48, n_embd=2048, n_ff=6144,
                            n_head=32, n_kv=4, head=128, n_vocab=151936, n_ctx=40960,
                            norms=True, experts=(128, 8, 768)),
    "gemma2-9b": _preset(gemma2, n_layer=42, n_embd=3584, n_ff=14336, n_head=16, n_kv=8,
                         head=256, n_vocab=256000),
    "gemma2-27b": _preset(gemma2, n_layer=46, n_embd=4608, n_ff=36864, n_head=32, n_kv=16,
                          head=128, n_vocab=256000),
    "gemma3-4b": _preset(dense, arch="gemma3", n_layer=34, n_embd=2560, n_ff=10240, n_head=8,
                         n_kv=4, head=256, n_vocab=262208, n_ctx=131072, tied=True,
                         **_GEMMA3_PATTERN),
    "phi3.5-mini": phi3,
    "deepseek2-lite": _preset(deepseek2, n_layer=27, n_embd=2048, n_ff=10944, n_head=16,
                              q_rank=0, experts=(64, 6, 1408), n_vocab=102400, n_dense=1),
    "deepseek-v3": _preset(deepseek2, n_layer=61, n_embd=7168, n_ff=18432, n_head=128,
                           q_rank=1536, experts=(256, 8, 2048), n_vocab=129280, n_dense=3,
                           n_shared=1),
    "gpt-oss-20b": gpt_oss,
    "command-r7b": _preset(dense, arch="cohere2", n_layer=32, n_embd=4096, n_ff=14336,
                           n_head=32, n_kv=8, head=128, n_vocab=256000, n_ctx=8192, tied=True,
                           ffn_norm=False, attention__sliding_window=U32(4096),
                           logit_scale=F32(0.25),
                           attention__layer_norm_epsilon=F32(1e-5)),
}  # fmt: skip

__all__ = ["SHAPES", "RealShape", "Val", "dense", "write"]
