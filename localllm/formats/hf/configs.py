"""Configs of transformers from a GGUF's keys: what each family adds to the common ones.

Where llama.cpp has a default that is written in no file (Gemma's windows, SmolLM's layers
without rope), it is here, with the place in llama.cpp that it is from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localllm.errors import EngineError
from localllm.formats.gguf import GGUFView
from localllm.formats.hf.sizes import Sizes

Values = Mapping[str, Any]
RMS = "attention.layer_norm_rms_epsilon"
FULL, SLIDING = "full_attention", "sliding_attention"


def common(view: GGUFView, sizes: Sizes, *, tied: bool) -> dict[str, Any]:
    """What every config has."""
    return {
        "vocab_size": sizes.n_vocab,
        "hidden_size": sizes.n_embd,
        "intermediate_size": sizes.n_ff,
        "num_hidden_layers": sizes.n_layer,
        "num_attention_heads": sizes.n_head,
        "num_key_value_heads": sizes.n_head_kv,
        "head_dim": sizes.head_dim,
        "max_position_embeddings": sizes.n_ctx_train,
        "tie_word_embeddings": tied,
        "bos_token_id": view.u32("tokenizer.ggml.bos_token_id"),
        "eos_token_id": view.u32("tokenizer.ggml.eos_token_id"),
        "pad_token_id": _inside(view.u32("tokenizer.ggml.padding_token_id"), sizes.n_vocab),
        "use_cache": True,
    }


def plain(view: GGUFView, sizes: Sizes) -> Values:
    """A model with RMS norms and nothing else to say."""
    return {"rms_norm_eps": _number(view, RMS)}


def mistral3(view: GGUFView, sizes: Sizes) -> Values:
    """Ministral 3, whose queries grow with the position; without that (Mistral Small 3) it is a
    llama. Sources: `llama_model_mistral3::load_arch_hparams`, `Ministral3Attention`."""
    growth = view.f32(view.arch_key("attention.temperature_scale"), 0.0)
    if not growth:
        return {**plain(view, sizes), "model_type": "llama", "attention_bias": False}
    if view.text(view.arch_key("rope.scaling.type")) != "yarn":
        raise EngineError(f"{view.name}: attention that grows goes with yarn only")
    rope = {
        "llama_4_scaling_beta": growth,
        "beta_fast": view.f32(view.arch_key("rope.scaling.yarn_beta_fast"), 32.0),
        "beta_slow": view.f32(view.arch_key("rope.scaling.yarn_beta_slow"), 1.0),
    }
    if scale := view.f32(view.arch_key("rope.scaling.yarn_log_multiplier"), 0.0):
        rope |= {"mscale": 1.0, "mscale_all_dim": scale}
    return {**plain(view, sizes), "sliding_window": None, "rope_parameters": rope}


def arcee(view: GGUFView, sizes: Sizes) -> Values:
    return {**plain(view, sizes), "hidden_act": "relu2"}


def phi3(view: GGUFView, sizes: Sizes) -> Values:
    """transformers prefers this length to the one among the rope's parameters."""
    original = view.arch_u32("rope.scaling.original_context_length", sizes.n_ctx_train)
    return {**plain(view, sizes), "original_max_position_embeddings": original}


def gemma(view: GGUFView, sizes: Sizes) -> Values:
    return {**plain(view, sizes), "hidden_act": "gelu_pytorch_tanh"}


def gemma2(view: GGUFView, sizes: Sizes) -> Values:
    """Defaults of `llama_model_gemma2::load_arch_hparams` and `llama_hparams`."""
    window = view.arch_u32("attention.sliding_window", 4096)
    return {
        **plain(view, sizes),
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": window,
        "layer_types": layer_types(view, sizes, 2),
        "attn_logit_softcapping": view.f32(view.arch_key("attn_logit_softcapping"), 50.0),
        "final_logit_softcapping": view.f32(view.arch_key("final_logit_softcapping"), 30.0),
        "query_pre_attn_scalar": _query_scalar(sizes, large=46),
        "attention_bias": False,
    }


def gemma3(view: GGUFView, sizes: Sizes) -> Values:
    """Defaults of `llama_model_gemma3::load_arch_hparams`: no window without a key, five of
    six layers with one; the local rope has base 10,000 and is never scaled."""
    window = view.arch_u32("attention.sliding_window", 0)
    cap = view.f32(view.arch_key("final_logit_softcapping"), 0.0)
    return {
        **plain(view, sizes),
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": window or sizes.n_ctx_train,
        "layer_types": layer_types(view, sizes, 6) if window else [FULL] * sizes.n_layer,
        "final_logit_softcapping": cap or None,
        "attn_logit_softcapping": None,
        "query_pre_attn_scalar": _query_scalar(sizes, large=62),
        "attention_bias": False,
    }


def granite(view: GGUFView, sizes: Sizes) -> Values:
    """Multipliers; `finetuned` false means a model without rope, which transformers has not."""
    if view.flag(view.arch_key("rope.scaling.finetuned"), True) is False:
        raise EngineError(f"{view.name}: a granite without rope cannot be trained yet")
    head = sizes.head_dim**-0.5
    return {
        **plain(view, sizes),
        "logits_scaling": view.f32(view.arch_key("logit_scale"), 0.0) or 1.0,
        "residual_multiplier": view.f32(view.arch_key("residual_scale"), 0.0) or 1.0,
        "embedding_multiplier": view.f32(view.arch_key("embedding_scale"), 0.0) or 1.0,
        "attention_multiplier": view.f32(view.arch_key("attention.scale"), 0.0) or head,
    }


def smollm3(view: GGUFView, sizes: Sizes) -> Values:
    """`n_no_rope_layer_step` is always 4 in `llama_model_smollm3`."""
    return {
        **plain(view, sizes),
        "no_rope_layers": [int((i + 1) % 4 != 0) for i in range(sizes.n_layer)],
        "use_sliding_window": False,
        "sliding_window": None,
    }


def olmo2(view: GGUFView, sizes: Sizes) -> Values:
    """OLMo 2, and OLMo 3 where there is a sliding window."""
    window = view.arch_u32("attention.sliding_window", 0)
    if not window:
        return plain(view, sizes)
    return {
        **plain(view, sizes),
        "model_type": "olmo3",
        "sliding_window": window,
        "layer_types": layer_types(view, sizes, 4),
    }


def seed_oss(view: GGUFView, sizes: Sizes) -> Values:
    return {
        **plain(view, sizes),
        "attention_out_bias": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
    }


def starcoder2(view: GGUFView, sizes: Sizes) -> Values:
    return {
        "norm_epsilon": _number(view, "attention.layer_norm_epsilon"),
        "use_bias": True,
        "sliding_window": None,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
    }


def stablelm(view: GGUFView, sizes: Sizes) -> Values:
    """Without the norms of single heads that StableLM 2 12B has."""
    return {
        "layer_norm_eps": _number(view, "attention.layer_norm_epsilon"),
        "use_parallel_residual": False,
        "qk_layernorm": False,
    }


def layer_types(view: GGUFView, sizes: Sizes, period: int) -> list[str]:
    """Which layers see a sliding window: told one by one, or every layer but the last of a
    `period` (`llama_hparams::set_swa_pattern`)."""
    key = view.arch_key("attention.sliding_window_pattern")
    if isinstance(view.metadata.get(key), tuple):
        told = view.arch_per_layer("attention.sliding_window_pattern", sizes.n_layer)
        return [SLIDING if one else FULL for one in told]
    period = view.u32(key, period)
    slides = [period == 0 or i % period < period - 1 for i in range(sizes.n_layer)]
    return [SLIDING if one else FULL for one in slides]


def _query_scalar(sizes: Sizes, large: int) -> int:
    """Gemma's 27B models (told by their number of layers) scale by the width instead."""
    if sizes.n_layer == large:
        return sizes.n_embd // sizes.n_head
    return sizes.head_dim


def _number(view: GGUFView, name: str) -> float:
    value = view.f32(view.arch_key(name))
    if value is None:
        raise EngineError(f"{view.name}: it has no {view.arch_key(name)}")
    return value


def _inside(token: int | None, n_vocab: int) -> int | None:
    """torch refuses a padding row that the embedding does not have."""
    return token if token is not None and token < n_vocab else None
