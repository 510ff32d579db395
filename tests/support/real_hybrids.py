"""Recurrent and hybrid models at their real shapes; see `real_shapes`."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.gguf_writer import F32, U32
from tests.support.real_shapes import RealShape


def _ssm(shape: RealShape, conv: int, inner: int, state: int, rank: int, groups: int = 0) -> None:
    shape.set("ssm.conv_kernel", U32(conv))
    shape.set("ssm.inner_size", U32(inner))
    shape.set("ssm.state_size", U32(state))
    shape.set("ssm.time_step_rank", U32(rank))
    if groups:
        shape.set("ssm.group_count", U32(groups))


def _mamba1(shape: RealShape, i: int, *, norms: bool = False) -> None:
    n_embd, inner, state, rank = shape.n_embd, 2 * shape.n_embd, 16, shape.n_embd // 16
    b = f"blk.{i}."
    shape.matrix(b + "ssm_in.weight", n_embd, 2 * inner)
    shape.vector(b + "ssm_conv1d.weight", 4, inner)
    shape.vector(b + "ssm_conv1d.bias", inner)
    shape.matrix(b + "ssm_x.weight", inner, rank + 2 * state)
    shape.matrix(b + "ssm_dt.weight", rank, inner)
    shape.vector(b + "ssm_dt.bias", inner)
    shape.vector(b + "ssm_a", state, inner)
    shape.vector(b + "ssm_d", inner)
    shape.matrix(b + "ssm_out.weight", inner, n_embd)
    if norms:
        shape.vector(b + "ssm_dt_norm.weight", rank)
        shape.vector(b + "ssm_b_norm.weight", state)
        shape.vector(b + "ssm_c_norm.weight", state)


def _mamba2(shape: RealShape, i: int, inner: int, state: int, n_heads: int, groups: int) -> None:
    b, conv = f"blk.{i}.", inner + 2 * groups * state
    shape.matrix(b + "ssm_in.weight", shape.n_embd, inner + conv + n_heads)
    shape.vector(b + "ssm_conv1d.weight", 4, conv)
    shape.vector(b + "ssm_conv1d.bias", conv)
    shape.vector(b + "ssm_dt.bias", n_heads)
    shape.vector(b + "ssm_a", 1, n_heads)
    shape.vector(b + "ssm_d", 1, n_heads)
    shape.vector(b + "ssm_norm.weight", inner // groups, groups)
    shape.matrix(b + "ssm_out.weight", inner, shape.n_embd)


def mamba(*, n_layer: int = 64, n_vocab: int = 50280, mix: str = "Q4_K_M") -> RealShape:
    """Mamba 2.8B."""
    n_embd = 2560
    shape = RealShape("mamba", n_layer, n_embd, n_vocab, mix, 1048576, tied=True)
    shape.heads(0, 0, 0)
    shape.set("feed_forward_length", U32(0))
    _ssm(shape, 4, 2 * n_embd, 16, n_embd // 16)
    for i in range(n_layer):
        shape.vector(f"blk.{i}.attn_norm.weight", n_embd)
        _mamba1(shape, i)
    return shape


def mamba2(*, n_layer: int = 64, n_vocab: int = 32768, mix: str = "Q4_K_M") -> RealShape:
    """Mamba-Codestral 7B."""
    n_embd, inner, state, n_heads, groups = 4096, 8192, 128, 128, 8
    shape = RealShape("mamba2", n_layer, n_embd, n_vocab, mix, 1048576)
    shape.heads(0, 0, 0)
    shape.set("feed_forward_length", U32(0))
    _ssm(shape, 4, inner, state, n_heads, groups)
    for i in range(n_layer):
        shape.vector(f"blk.{i}.attn_norm.weight", n_embd)
        _mamba2(shape, i, inner, state, n_heads, groups)
    return shape


def granite_hybrid(*, n_layer: int = 40, n_vocab: int = 100352, mix: str = "Q4_K_M") -> RealShape:
    """Granite 4.0 H Tiny: four attention layers among Mamba-2 layers, 64 experts."""
    n_embd, inner, state, n_heads, groups = 1536, 3072, 128, 48, 1
    n_head, n_kv, head, n_ff, shared = 12, 4, 128, 512, 1024
    shape = RealShape("granitehybrid", n_layer, n_embd, n_vocab, mix, 131072, tied=True)
    attention = {i for i in range(n_layer) if i % 10 == 5}
    shape.heads(n_head, n_kv, head)
    shape.per_layer("attention.head_count_kv", [n_kv * (i in attention) for i in range(n_layer)])
    shape.set("feed_forward_length", U32(n_ff))
    shape.set("expert_count", U32(64))
    shape.set("expert_used_count", U32(6))
    shape.set("expert_shared_feed_forward_length", U32(shared))
    for key in ("logit_scale", "residual_scale", "embedding_scale", "attention.scale"):
        shape.set(key, F32(1.0))
    _ssm(shape, 4, inner, state, n_heads, groups)
    for i in range(n_layer):
        shape.vector(f"blk.{i}.attn_norm.weight", n_embd)
        if i in attention:
            shape.attention(i, n_head, n_kv, head)
        else:
            _mamba2(shape, i, inner, state, n_heads, groups)
        shape.vector(f"blk.{i}.ffn_norm.weight", n_embd)
        shape.experts(i, 64, n_ff)
        shape.feed_forward(i, shared, "_shexp")
    return shape


def jamba(*, n_layer: int = 32, n_vocab: int = 65536, mix: str = "Q4_K_M") -> RealShape:
    """Jamba v0.1: one attention layer in eight, experts in every other."""
    n_embd, n_ff, n_head, n_kv = 4096, 14336, 32, 8
    shape = RealShape("jamba", n_layer, n_embd, n_vocab, mix, 262144)
    shape.heads(n_head, n_kv, 128)
    shape.per_layer("attention.head_count_kv", [n_kv * (i % 8 == 4) for i in range(n_layer)])
    shape.set("feed_forward_length", U32(n_ff))
    shape.set("expert_count", U32(16))
    shape.set("expert_used_count", U32(2))
    _ssm(shape, 4, 2 * n_embd, 16, n_embd // 16)
    for i in range(n_layer):
        shape.vector(f"blk.{i}.attn_norm.weight", n_embd)
        if i % 8 == 4:
            shape.attention(i, n_head, n_kv, 128)
        else:
            _mamba1(shape, i, norms=True)
        shape.vector(f"blk.{i}.ffn_norm.weight", n_embd)
        if i % 2:
            shape.experts(i, 16, n_ff)
        else:
            shape.feed_forward(i, n_ff)
    return shape


def qwen3next(*, n_layer: int = 48, n_vocab: int = 151936, mix: str = "Q4_K_M") -> RealShape:
    """Qwen3-Next 80B A3B: three gated delta nets, then one attention layer."""
    n_embd, n_head, n_kv, head, n_ff, shared = 2048, 16, 2, 256, 512, 512
    state, groups, rank = 128, 16, 32
    inner = state * rank
    shape = RealShape("qwen3next", n_layer, n_embd, n_vocab, mix, 262144)
    shape.heads(n_head, n_kv, head, rope=64)
    shape.set("feed_forward_length", U32(5120))
    shape.set("expert_count", U32(512))
    shape.set("expert_used_count", U32(10))
    shape.set("expert_feed_forward_length", U32(n_ff))
    shape.set("expert_shared_feed_forward_length", U32(shared))
    _ssm(shape, 4, inner, state, rank, groups)
    for i in range(n_layer):
        b = f"blk.{i}."
        shape.vector(b + "attn_norm.weight", n_embd)
        shape.vector(b + "post_attention_norm.weight", n_embd)
        if i % 4 == 3:
            shape.matrix(b + "attn_q.weight", n_embd, 2 * n_head * head)
            shape.matrix(b + "attn_k.weight", n_embd, n_kv * head)
            shape.matrix(b + "attn_v.weight", n_embd, n_kv * head, layer=i)
            shape.matrix(b + "attn_output.weight", n_head * head, n_embd)
            shape.vector(b + "attn_q_norm.weight", head)
            shape.vector(b + "attn_k_norm.weight", head)
        else:
            conv = 2 * state * groups + inner
            shape.matrix(b + "attn_qkv.weight", n_embd, conv)
            shape.matrix(b + "attn_gate.weight", n_embd, inner)
            shape.vector(b + "ssm_conv1d.weight", 4, conv)
            shape.vector(b + "ssm_dt.bias", rank)
            shape.vector(b + "ssm_a", rank)
            shape.matrix(b + "ssm_ba.weight", n_embd, 2 * rank)
            shape.vector(b + "ssm_norm.weight", state)
            shape.matrix(b + "ssm_out.weight", inner, n_embd)
        shape.experts(i, 512, n_ff)
        shape.vector(b + "ffn_gate_inp_shexp.weight", n_embd)
        shape.feed_forward(i, shared, "_shexp")
    return shape


def lfm2(*, n_layer: int = 16, n_vocab: int = 65536, mix: str = "Q4_K_M") -> RealShape:
    """LFM2 1.2B: six attention layers, short convolutions elsewhere."""
    n_embd, n_ff, n_head, n_kv, head = 2048, 8192, 32, 8, 64
    attention = {2, 5, 8, 10, 12, 14}
    shape = RealShape("lfm2", n_layer, n_embd, n_vocab, mix, 128000, tied=True)
    shape.tensors = [t for t in shape.tensors if t.name != "output_norm.weight"]
    shape.vector("token_embd_norm.weight", n_embd)
    shape.heads(n_head, n_kv, head)
    shape.per_layer("attention.head_count_kv", [n_kv * (i in attention) for i in range(n_layer)])
    shape.set("feed_forward_length", U32(n_ff))
    shape.set("shortconv.l_cache", U32(3))
    for i in range(n_layer):
        b = f"blk.{i}."
        shape.vector(b + "attn_norm.weight", n_embd)
        shape.vector(b + "ffn_norm.weight", n_embd)
        shape.feed_forward(i, n_ff)
        if i in attention:
            shape.attention(i, n_head, n_kv, head, norms=True)
        else:
            shape.vector(b + "shortconv.conv.weight", 3, n_embd)
            shape.matrix(b + "shortconv.in_proj.weight", n_embd, 3 * n_embd)
            shape.matrix(b + "shortconv.out_proj.weight", n_embd, n_embd)
    return shape


def falcon_h1(*, n_layer: int = 44, n_vocab: int = 130048, mix: str = "Q4_K_M") -> RealShape:
    """Falcon-H1 7B: attention and Mamba-2 side by side in every layer."""
    n_embd, n_ff, n_head, n_kv, head = 3072, 12288, 12, 2, 128
    inner, state, n_heads, groups = 3072, 256, 24, 1
    shape = RealShape("falcon-h1", n_layer, n_embd, n_vocab, mix, 262144)
    shape.heads(n_head, n_kv, head)
    shape.set("feed_forward_length", U32(n_ff))
    _ssm(shape, 4, inner, state, n_heads, groups)
    for i in range(n_layer):
        b = f"blk.{i}."
        shape.vector(b + "attn_norm.weight", n_embd)
        _mamba2(shape, i, inner, state, n_heads, groups)
        shape.attention(i, n_head, n_kv, head)
        shape.vector(b + "ffn_norm", n_embd)
        shape.feed_forward(i, n_ff)
    return shape


def rwkv7(*, n_layer: int = 32, n_vocab: int = 65536, mix: str = "F16") -> RealShape:
    """RWKV-7 World 2.9B."""
    n_embd, n_ff, decay, iclr, value, gate = 2560, 10240, 96, 96, 64, 320
    shape = RealShape("rwkv7", n_layer, n_embd, n_vocab, mix, 1048576)
    shape.vector("output_norm.bias", n_embd)
    shape.vector("token_embd_norm.weight", n_embd)
    shape.vector("token_embd_norm.bias", n_embd)
    shape.set("attention.head_count", U32(0))
    shape.set("attention.layer_norm_epsilon", F32(1e-5))
    shape.set("feed_forward_length", U32(n_ff))
    shape.set("wkv.head_size", U32(64))
    for key, rank in (
        ("decay", decay),
        ("iclr", iclr),
        ("value_residual_mix", value),
        ("gate", gate),
    ):
        shape.set(f"attention.{key}_lora_rank", U32(rank))
    for i in range(n_layer):
        b = f"blk.{i}."
        for name in ("attn_norm", "attn_norm_2", "time_mix_ln"):
            shape.vector(f"{b}{name}.weight", n_embd)
            shape.vector(f"{b}{name}.bias", n_embd)
        for name, rank in (("w", decay), ("a", iclr), ("v", value if i else iclr), ("g", gate)):
            if name != "g":
                shape.vector(f"{b}time_mix_{name}0.weight", n_embd)
            shape.matrix(f"{b}time_mix_{name}1.weight", n_embd, rank)
            shape.matrix(f"{b}time_mix_{name}2.weight", rank, n_embd)
        shape.vector(b + "time_mix_lerp_fused.weight", n_embd, 1, 1, 6)
        for name in ("k_k", "k_a", "r_k"):
            shape.vector(f"{b}time_mix_{name}.weight", n_embd)
        for name in ("key", "value", "receptance", "output"):
            shape.matrix(f"{b}time_mix_{name}.weight", n_embd, n_embd)
        shape.vector(b + "channel_mix_lerp_k.weight", n_embd, 1, 1)
        shape.matrix(b + "channel_mix_key.weight", n_embd, n_ff)
        shape.matrix(b + "channel_mix_value.weight", n_ff, n_embd)
    return shape


HYBRIDS: dict[str, Callable[..., RealShape]] = {
    "mamba-2.8b": mamba,
    "mamba2-7b": mamba2,
    "granite4-h-tiny": granite_hybrid,
    "jamba-52b": jamba,
    "qwen3next-80b": qwen3next,
    "lfm2-1.2b": lfm2,
    "falcon-h1-7b": falcon_h1,
    "rwkv7-2.9b": rwkv7,
}
