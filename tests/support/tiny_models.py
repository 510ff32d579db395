"""Tiny GGUF models with random weights that the real llama.cpp loads and runs.

    path = tiny_llama(tmp_path / "tiny.gguf")                # 1.4 M weights, F16, ChatML
    path = tiny_qwen2(tmp_path / "q.gguf", dtype="Q4_K", seed=3)
    shards = split(llama_model, tmp_path, "big", n_shards=3)  # big-00001-of-00003.gguf ...

The same seed and options give the same bytes. Each takes well under a second. Special tokens
have logit 0 (their output rows are zero), so greedy decoding never ends by chance; for a
model that says exactly what a test wants, see `tiny_chain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.gguf_writer import F32, U32, Val
from tests.support.tiny_builder import FILE_TYPES, TinyModel, quantized
from tests.support.tiny_vocab import CHATML, bpe_vocab, spm_vocab, wordpiece_vocab

__all__ = [
    "CHATML", "FILE_TYPES", "TinyModel", "bpe_vocab", "llama_model", "quantized", "split",
    "spm_vocab", "tiny_bert", "tiny_chain", "tiny_gemma3", "tiny_llama", "tiny_lora",
    "tiny_mamba", "tiny_qwen2", "tiny_qwen3moe", "wordpiece_vocab",
]  # fmt: skip


def tiny_llama(path: Path, **options: Any) -> Path:
    """A llama: see `llama_model` for the options (seed, n_layer, n_embd, dtype, vocab, ...)."""
    return llama_model(**options).write(path)


def tiny_qwen2(path: Path, **options: Any) -> Path:
    """A qwen2: llama with biases on q, k, v and pre-tokenizer qwen2."""
    return llama_model("qwen2", **options).write(path)


def tiny_qwen3moe(path: Path, **options: Any) -> Path:
    """A mixture of experts with per-head norms; options as llama plus n_expert, n_expert_used."""
    return llama_model("qwen3moe", **options).write(path)


def llama_model(
    arch: str = "llama",
    *,
    seed: int = 0,
    n_layer: int = 2,
    n_embd: int = 256,
    n_ff: int = 512,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_ctx_train: int = 2048,
    dtype: str = "F16",
    vocab: str = "bpe",
    chat_template: str | None = CHATML,
    n_expert: int = 4,
    n_expert_used: int = 2,
    metadata: Mapping[str, Any] | None = None,
) -> TinyModel:
    """llama, qwen2 or qwen3moe with random weights. `vocab` is "bpe" or "spm"; `metadata` is
    added last and may replace keys."""
    if vocab == "spm":
        words = spm_vocab(chat_template=chat_template)
    else:
        pre = "gpt-2" if arch == "llama" else "qwen2"
        words = bpe_vocab(pre=pre, chat_template=chat_template)
    head_dim = n_embd // n_head
    keys = _general(arch, dtype, n_layer, n_embd, n_ff, n_head, n_ctx_train) | {
        f"{arch}.attention.head_count_kv": U32(n_head_kv),
        f"{arch}.attention.layer_norm_rms_epsilon": F32(1e-5),
        f"{arch}.rope.dimension_count": U32(head_dim),
        f"{arch}.rope.freq_base": F32(10000.0),
        f"{arch}.vocab_size": U32(len(words)),
    }
    if arch == "qwen3moe":
        keys[f"{arch}.expert_count"] = U32(n_expert)
        keys[f"{arch}.expert_used_count"] = U32(n_expert_used)
        keys[f"{arch}.expert_feed_forward_length"] = U32(n_ff)
        keys[f"{arch}.attention.key_length"] = U32(head_dim)
        keys[f"{arch}.attention.value_length"] = U32(head_dim)
    model = TinyModel(keys | dict(words.metadata) | dict(metadata or {}), dtype, seed)
    model.embeddings(words, n_embd)
    model.norm("output_norm.weight", n_embd)
    for i in range(n_layer):
        _attention(model, f"blk.{i}.", n_embd, head_dim * n_head, head_dim * n_head_kv)
        if arch == "qwen2":
            model.norm(f"blk.{i}.attn_q.bias", head_dim * n_head, 0.0)
            model.norm(f"blk.{i}.attn_k.bias", head_dim * n_head_kv, 0.0)
            model.norm(f"blk.{i}.attn_v.bias", head_dim * n_head_kv, 0.0)
        if arch == "qwen3moe":
            model.norm(f"blk.{i}.attn_q_norm.weight", head_dim)
            model.norm(f"blk.{i}.attn_k_norm.weight", head_dim)
            _experts(model, f"blk.{i}.", n_embd, n_ff, n_expert)
        else:
            _feed_forward(model, f"blk.{i}.", n_embd, n_ff)
    return model


def tiny_gemma3(
    path: Path,
    *,
    seed: int = 0,
    n_layer: int = 7,
    n_embd: int = 256,
    n_ff: int = 512,
    n_swa: int = 64,
    n_ctx_train: int = 2048,
    dtype: str = "F16",
    chat_template: str | None = CHATML,
) -> Path:
    """Sliding windows of `n_swa` tokens in five of six layers (layer 5 is global); tied output."""
    words = spm_vocab(chat_template=chat_template)
    n_head, n_head_kv, head_dim = 4, 1, 64
    keys = _general("gemma3", dtype, n_layer, n_embd, n_ff, n_head, n_ctx_train) | {
        "gemma3.attention.head_count_kv": U32(n_head_kv),
        "gemma3.attention.key_length": U32(head_dim),
        "gemma3.attention.value_length": U32(head_dim),
        "gemma3.attention.layer_norm_rms_epsilon": F32(1e-6),
        "gemma3.attention.sliding_window": U32(n_swa),
        "gemma3.rope.freq_base": F32(1_000_000.0),
    }
    model = TinyModel(keys | dict(words.metadata), dtype, seed)
    model.embeddings(words, n_embd, tied=True)
    model.norm("output_norm.weight", n_embd)
    for i in range(n_layer):
        _attention(model, f"blk.{i}.", n_embd, head_dim * n_head, head_dim * n_head_kv)
        for name, n in (("attn_q_norm", head_dim), ("attn_k_norm", head_dim),
                        ("post_attention_norm", n_embd), ("post_ffw_norm", n_embd)):  # fmt: skip
            model.norm(f"blk.{i}.{name}.weight", n, 30.0 if name.startswith("post") else 1.0)
        _feed_forward(model, f"blk.{i}.", n_embd, n_ff)
    return model.write(path)


def tiny_mamba(
    path: Path,
    *,
    seed: int = 0,
    n_layer: int = 2,
    n_embd: int = 256,
    dtype: str = "F16",
    chat_template: str | None = None,
) -> Path:
    """A recurrent model: no KV cache, a state of d_conv - 1 and d_state rows a layer."""
    import numpy as np

    words = bpe_vocab(chat_template=chat_template)
    d_conv, d_inner, d_state, dt_rank = 4, 2 * n_embd, 16, n_embd // 16
    keys = _general("mamba", dtype, n_layer, n_embd, 0, 0, 1 << 20) | {
        "mamba.attention.layer_norm_rms_epsilon": F32(1e-5),
        "mamba.ssm.conv_kernel": U32(d_conv),
        "mamba.ssm.inner_size": U32(d_inner),
        "mamba.ssm.state_size": U32(d_state),
        "mamba.ssm.time_step_rank": U32(dt_rank),
    }
    model = TinyModel(keys | dict(words.metadata), dtype, seed)
    model.embeddings(words, n_embd)
    model.norm("output_norm.weight", n_embd)
    for i in range(n_layer):
        b = f"blk.{i}."
        model.norm(b + "attn_norm.weight", n_embd)
        model.matrix(b + "ssm_in.weight", (n_embd, 2 * d_inner))
        conv = model.rng.standard_normal((d_inner, d_conv), dtype=np.float32) * np.float32(0.5)
        model.add(b + "ssm_conv1d.weight", conv, "F32")
        model.norm(b + "ssm_conv1d.bias", d_inner, 0.0)
        model.matrix(b + "ssm_x.weight", (d_inner, dt_rank + 2 * d_state))
        model.matrix(b + "ssm_dt.weight", (dt_rank, d_inner))
        model.norm(b + "ssm_dt.bias", d_inner, -3.0)
        decay = -np.tile(np.arange(1, d_state + 1, dtype=np.float32), (d_inner, 1))
        model.add(b + "ssm_a", decay, "F32")
        model.norm(b + "ssm_d", d_inner)
        model.matrix(b + "ssm_out.weight", (d_inner, n_embd))
    return model.write(path)


def tiny_bert(
    path: Path, *, seed: int = 0, n_layer: int = 2, n_embd: int = 128, dtype: str = "F16"
) -> Path:
    """An embedding model: bidirectional attention, mean pooling, WordPiece vocabulary."""
    words = wordpiece_vocab()
    n_ctx, n_ff = 512, 2 * n_embd
    keys = _general("bert", dtype, n_layer, n_embd, n_ff, 4, n_ctx) | {
        "bert.attention.layer_norm_epsilon": F32(1e-12),
        "bert.attention.causal": Val("bool", False),
        "bert.pooling_type": U32(1),
    }
    model = TinyModel(keys | dict(words.metadata), dtype, seed)
    model.matrix("token_embd.weight", (n_embd, len(words)), std=1.0)
    # llama.cpp adds rows of these two, which wants F32 whatever the rest is
    model.matrix("position_embd.weight", (n_embd, n_ctx), std=0.1, dtype="F32")
    model.matrix("token_types.weight", (n_embd, 2), std=0.1, dtype="F32")
    model.norm("token_embd_norm.weight", n_embd)
    model.norm("token_embd_norm.bias", n_embd, 0.0)
    for i in range(n_layer):
        b = f"blk.{i}."
        square = ((name, n_embd, n_embd) for name in ("attn_q", "attn_k", "attn_v", "attn_output"))
        for name, n_in, n_out in (*square, ("ffn_up", n_embd, n_ff), ("ffn_down", n_ff, n_embd)):
            model.matrix(f"{b}{name}.weight", (n_in, n_out))
            model.norm(f"{b}{name}.bias", n_out, 0.0)
        for name in ("attn_output_norm", "layer_output_norm"):
            model.norm(f"{b}{name}.weight", n_embd)
            model.norm(f"{b}{name}.bias", n_embd, 0.0)
    return model.write(path)


def tiny_lora(
    path: Path,
    *,
    seed: int = 0,
    arch: str = "llama",
    n_layer: int = 2,
    n_embd: int = 256,
    n_ff: int = 512,
    n_head: int = 4,
    n_head_kv: int = 2,
    rank: int = 4,
    alpha: float = 8.0,
    std: float = 0.5,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """A LoRA adapter for `tiny_llama` of the same shape, on q, v and ffn_down. `std` is how
    hard it pulls; at the default the output changes visibly."""
    kv = n_embd // n_head * n_head_kv
    keys = {
        "general.type": "adapter",
        "general.architecture": arch,
        "general.name": "tiny-lora",
        "adapter.type": "lora",
        "adapter.lora.alpha": F32(alpha),
    }
    model = TinyModel(keys | dict(metadata or {}), "F32", seed)
    for i in range(n_layer):
        for name, n_in, n_out in (("attn_q", n_embd, n_embd), ("attn_v", n_embd, kv),
                                  ("ffn_down", n_ff, n_embd)):  # fmt: skip
            model.matrix(f"blk.{i}.{name}.weight.lora_a", (n_in, rank))
            model.matrix(f"blk.{i}.{name}.weight.lora_b", (rank, n_out), std=std)
    return model.write(path)


def tiny_chain(
    path: Path,
    transitions: Mapping[int, int],
    *,
    chat_template: str | None = CHATML,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """A model whose next token depends on the last one only, as told: `{72: 105}` makes byte H
    be followed by byte i (BPE ids 0-255 are the bytes). Any other token is followed by
    <|end_of_text|>. Greedy text is exact, and the right token has probability > 0.999."""
    import numpy as np

    words, n_embd = bpe_vocab(chat_template=chat_template), 512
    keys = _general("llama", "F32", 1, n_embd, 256, 4, 2048) | {
        "llama.attention.layer_norm_rms_epsilon": F32(1e-5),
        "llama.rope.dimension_count": U32(n_embd // 4),
    }
    model = TinyModel(keys | dict(words.metadata) | dict(metadata or {}), "F32")
    # the state is the token as a unit vector; the norm scales it by sqrt(n_embd) = 22.6
    model.add("token_embd.weight", np.eye(len(words), n_embd, dtype=np.float32), "F32")
    output = np.zeros((len(words), n_embd), dtype=np.float32)
    for last in range(len(words)):
        output[transitions.get(last, words.eos), last] = 1.0
    model.add("output.weight", output, "F32")
    model.add("output_norm.weight", np.ones(n_embd, dtype=np.float32), "F32")
    for name, shape in (("attn_norm", (n_embd,)), ("ffn_norm", (n_embd,)),
                        ("attn_q", (n_embd, n_embd)), ("attn_k", (n_embd, n_embd)),
                        ("attn_v", (n_embd, n_embd)), ("attn_output", (n_embd, n_embd)),
                        ("ffn_gate", (256, n_embd)), ("ffn_up", (256, n_embd)),
                        ("ffn_down", (n_embd, 256))):  # fmt: skip
        model.add(f"blk.0.{name}.weight", np.zeros(shape, dtype=np.float32), "F32")
    return model.write(path)


def split(
    build: Callable[..., TinyModel], folder: Path, stem: str, *, n_shards: int = 3, **options: Any
) -> list[Path]:
    """`split(llama_model, tmp_path, "big", n_shards=3, seed=1)`: the shards' paths in order."""
    return build(**options).write_split(folder, stem, n_shards)


def _general(
    arch: str, dtype: str, n_layer: int, n_embd: int, n_ff: int, n_head: int, n_ctx_train: int
) -> dict[str, Any]:
    return {
        "general.architecture": arch,
        "general.type": "model",
        "general.name": f"tiny-{arch}",
        "general.file_type": U32(FILE_TYPES[dtype]),
        "general.quantization_version": U32(2),
        f"{arch}.context_length": U32(n_ctx_train),
        f"{arch}.embedding_length": U32(n_embd),
        f"{arch}.block_count": U32(n_layer),
        f"{arch}.feed_forward_length": U32(n_ff),
        f"{arch}.attention.head_count": U32(n_head),
    }


def _attention(model: TinyModel, block: str, n_embd: int, n_q: int, n_kv: int) -> None:
    model.norm(block + "attn_norm.weight", n_embd)
    model.matrix(block + "attn_q.weight", (n_embd, n_q))
    model.matrix(block + "attn_k.weight", (n_embd, n_kv))
    model.matrix(block + "attn_v.weight", (n_embd, n_kv))
    model.matrix(block + "attn_output.weight", (n_q, n_embd))


def _feed_forward(model: TinyModel, block: str, n_embd: int, n_ff: int) -> None:
    model.norm(block + "ffn_norm.weight", n_embd)
    model.matrix(block + "ffn_gate.weight", (n_embd, n_ff))
    model.matrix(block + "ffn_up.weight", (n_embd, n_ff))
    model.matrix(block + "ffn_down.weight", (n_ff, n_embd))


def _experts(model: TinyModel, block: str, n_embd: int, n_ff: int, n_expert: int) -> None:
    import numpy as np

    model.norm(block + "ffn_norm.weight", n_embd)
    router = model.rng.standard_normal((n_expert, n_embd), dtype=np.float32)
    model.add(block + "ffn_gate_inp.weight", router * np.float32(n_embd**-0.5), "F32")
    model.matrix(block + "ffn_gate_exps.weight", (n_embd, n_ff, n_expert))
    model.matrix(block + "ffn_up_exps.weight", (n_embd, n_ff, n_expert))
    model.matrix(block + "ffn_down_exps.weight", (n_ff, n_embd, n_expert))
