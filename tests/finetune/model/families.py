"""Tiny random models of every family, and their GGUFs written without the code under test.

Names come from `gguf`'s tensor map, what the converter does to numbers (llama's pairing of rows,
Gemma's norms) is written out here from its source, metadata keys are the converter's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.gguf_writer import F32, U32, Arr
from tests.support.tiny_builder import FILE_TYPES, TinyModel
from tests.support.tiny_vocab import bpe_vocab

WORDS = bpe_vocab(chat_template=None)
WINDOW = 24
Keys = dict[str, Any]


@dataclass(frozen=True)
class Tiny:
    """One family: how transformers makes it and what the GGUF says of it."""

    arch: str
    class_name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    keys: Callable[[Any], Keys] = lambda config: {}
    paired: bool = False
    norm_shift: float = 0.0
    layers: int = 2
    embd: int = 128

    @property
    def name(self) -> str:
        return f"{self.arch}-{self.class_name.removesuffix('ForCausalLM').lower()}"


def _rope(**more: Any) -> Mapping[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **more}}


def _window(config: Any) -> Keys:
    return {"attention.sliding_window": U32(config.sliding_window)}


def _swa_layers(config: Any) -> Keys:
    told = [one == "sliding_attention" for one in config.layer_types]
    return _window(config) | {"attention.sliding_window_pattern": Arr("bool", told)}


def _layer_norm(config: Any) -> Keys:
    eps = getattr(config, "norm_epsilon", None) or config.layer_norm_eps
    return {"attention.layer_norm_epsilon": F32(eps)}


def _partial(config: Any) -> Keys:
    head = config.hidden_size // config.num_attention_heads
    turned = int(head * config.rope_parameters["partial_rotary_factor"])
    return {"rope.dimension_count": U32(turned)}


def _granite(config: Any) -> Keys:
    return {
        "attention.scale": F32(config.attention_multiplier),
        "embedding_scale": F32(config.embedding_multiplier),
        "residual_scale": F32(config.residual_multiplier),
        "logit_scale": F32(config.logits_scaling),
    }


def _gemma2(config: Any) -> Keys:
    return _window(config) | {
        "attn_logit_softcapping": F32(config.attn_logit_softcapping),
        "final_logit_softcapping": F32(config.final_logit_softcapping),
    }


def _yarn(config: Any) -> Keys:
    from tests.support.gguf_writer import Val

    rope = config.rope_parameters
    return {
        "rope.scaling.type": Val("str", "yarn"),
        "rope.scaling.factor": F32(rope["factor"]),
        "rope.scaling.original_context_length": U32(rope["original_max_position_embeddings"]),
    }


def _linear(config: Any) -> Keys:
    from tests.support.gguf_writer import Val

    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    return {"rope.scaling.type": Val("str", "linear"), "rope.scaling.factor": F32(rope["factor"])}


def _longrope(config: Any) -> Keys:
    rope = config.rope_parameters
    return {
        "rope.scaling.original_context_length": U32(rope["original_max_position_embeddings"]),
        "rope.scaling.attn_factor": F32(rope["attention_factor"]),
    }


def _ministral(config: Any) -> Keys:
    rope = config.rope_parameters
    return {
        "attention.temperature_scale": F32(rope["llama_4_scaling_beta"]),
        "rope.scaling.yarn_log_multiplier": F32(rope["mscale_all_dim"]),
        "rope.scaling.yarn_beta_fast": F32(rope["beta_fast"]),
        "rope.scaling.yarn_beta_slow": F32(rope["beta_slow"]),
    }


_MINISTRAL = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
              "original_max_position_embeddings": 20, "beta_fast": 16.0, "beta_slow": 2.0,
              "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.7}  # fmt: skip
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0 + i / 40 for i in range(12)],
    "long_factor": [2.0 + i / 10 for i in range(12)],
    "original_max_position_embeddings": 512,
    "attention_factor": 1.19,
}
_GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip

# the first of each is the plain case
TINY: tuple[Tiny, ...] = (
    Tiny("llama", "LlamaForCausalLM", _rope(), paired=True),
    Tiny("llama", "LlamaForCausalLM", {"rope_parameters": _LLAMA3, "head_dim": 48,
         "attention_bias": True, "mlp_bias": True}, paired=True),
    Tiny("llama", "LlamaForCausalLM", _rope(rope_type="yarn", factor=4.0,
         original_max_position_embeddings=64), _yarn, paired=True),
    Tiny("llama", "MistralForCausalLM", {**_rope(), "sliding_window": None}, paired=True),
    Tiny("qwen2", "Qwen2ForCausalLM", {**_rope(rope_type="linear", factor=2.0)}, _linear),
    Tiny("qwen3", "Qwen3ForCausalLM", {**_rope(), "head_dim": 48}),
    Tiny("qwen3", "Qwen3ForCausalLM", {**_rope(rope_type="yarn", factor=4.0,
         original_max_position_embeddings=64), "tie_word_embeddings": True}, _yarn),
    Tiny("gemma", "GemmaForCausalLM", {**_rope(), "head_dim": 48}, norm_shift=1.0),
    Tiny("gemma2", "Gemma2ForCausalLM", {**_rope(), "head_dim": 48, "sliding_window": WINDOW,
         "query_pre_attn_scalar": 48, "attn_logit_softcapping": 2.0,
         "final_logit_softcapping": 5.0}, _gemma2, norm_shift=1.0),
    Tiny("gemma3", "Gemma3ForCausalLM", {"head_dim": 48, "sliding_window": WINDOW,
         "query_pre_attn_scalar": 48, "rope_parameters": _GEMMA_ROPE},
         lambda config: _window(config) | _linear(config), norm_shift=1.0, layers=7),
    Tiny("phi3", "Phi3ForCausalLM", _rope(partial_rotary_factor=1.0)),
    Tiny("phi3", "Phi3ForCausalLM", {"rope_parameters": _LONG,
         "original_max_position_embeddings": 512},
         lambda config: _partial(config) | _longrope(config)),
    Tiny("granite", "GraniteForCausalLM", {**_rope(), "attention_multiplier": 0.07,
         "embedding_multiplier": 3.0, "residual_multiplier": 0.6, "logits_scaling": 2.0,
         "tie_word_embeddings": True}, _granite, paired=True),
    Tiny("smollm3", "SmolLM3ForCausalLM", _rope(), paired=True, layers=5),
    Tiny("olmo2", "Olmo2ForCausalLM", _rope()),
    Tiny("olmo2", "Olmo3ForCausalLM", {"sliding_window": WINDOW}, _swa_layers, layers=5),
    Tiny("starcoder2", "Starcoder2ForCausalLM", {**_rope(), "tie_word_embeddings": True},
         _layer_norm),
    Tiny("stablelm", "StableLmForCausalLM", {**_rope(partial_rotary_factor=0.25),
         "use_qkv_bias": True}, lambda config: _layer_norm(config) | _partial(config)),
    Tiny("mistral3", "Ministral3ForCausalLM", {"rope_parameters": _MINISTRAL, "head_dim": 48},
         lambda config: _yarn(config) | _ministral(config), paired=True),
    Tiny("mistral3", "LlamaForCausalLM", {**_rope(), "head_dim": 48}, paired=True),
    Tiny("ernie4_5", "Ernie4_5ForCausalLM", {**_rope(), "head_dim": 48}),
    Tiny("arcee", "ArceeForCausalLM", _rope(), paired=True),
    Tiny("seed_oss", "SeedOssForCausalLM", {**_rope(), "head_dim": 48, "attention_bias": True,
         "attention_dropout": 0.0, "residual_dropout": 0.0}),
)  # fmt: skip


def hf_model(tiny: Tiny, seed: int = 0) -> Any:
    """The module of transformers with random weights that make logits of a few nats."""
    import transformers

    cls = getattr(transformers, tiny.class_name)
    values = {
        "vocab_size": len(WORDS), "hidden_size": tiny.embd, "intermediate_size": 2 * tiny.embd,
        "num_hidden_layers": tiny.layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "bos_token_id": WORDS.bos, "eos_token_id": WORDS.eos,
        "pad_token_id": None, "tie_word_embeddings": False,
    } | dict(tiny.config)  # fmt: skip
    if tiny.arch.startswith("gemma"):
        values["tie_word_embeddings"] = True
    config = cls.config_class(**values)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = cls(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                near = 0.0 if name.endswith("bias") or tiny.norm_shift else 1.0
                parameter.copy_(near + (0.3 if config.tie_word_embeddings else 0.1) * noise)
            elif "embed_tokens" in name:
                # a tied output layer must not just repeat the token
                parameter.copy_((0.06 if config.tie_word_embeddings else 0.3) * noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5 * 1.3)
            # what a file in half precision can hold
            parameter.copy_(parameter.half().float() if parameter.ndim > 1 else parameter)
    return model


def gguf_of(model: Any, tiny: Tiny, path: Path, dtype: str = "F16") -> Path:
    """The module as llama.cpp's converter would write it, matrices in `dtype`."""
    file = TinyModel(_metadata(model.config, tiny, dtype), dtype)
    for name, values in gguf_tensors(model, tiny).items():
        wanted = dtype if values.ndim > 1 and values.shape[-1] % 32 == 0 else "F32"
        file.add(name, values, wanted)
    return file.write(path)


def gguf_tensors(model: Any, tiny: Tiny) -> dict[str, np.ndarray]:
    """Every tensor by its name in a GGUF, numbers as the converter makes them."""
    import gguf

    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == tiny.arch)
    names = gguf.get_tensor_name_map(arch, tiny.layers)
    config, found = model.config, {}
    for hf_name, parameter in model.state_dict().items():
        if hf_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        assert name is not None, hf_name
        values = parameter.detach().numpy().astype(np.float32)
        if tiny.paired and ".q_proj." in hf_name:
            values = permute(values, config.num_attention_heads)
        if tiny.paired and ".k_proj." in hf_name:
            values = permute(values, config.num_key_value_heads)
        if hf_name.endswith("norm.weight") and tiny.norm_shift:
            values = values + np.float32(tiny.norm_shift)
        found[name] = values
    return found | _rope_tensors(config)


def permute(values: np.ndarray, n_head: int) -> np.ndarray:
    """`LlamaModel.permute` of the converter."""
    half = values.shape[0] // n_head // 2
    return values.reshape(n_head, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _rope_tensors(config: Any) -> dict[str, np.ndarray]:
    rope = config.rope_parameters
    if rope.get("rope_type") == "longrope":
        return {
            f"rope_factors_{size}.weight": np.array(rope[f"{size}_factor"], dtype=np.float32)
            for size in ("long", "short")
        }
    if rope.get("rope_type") != "llama3":
        return {}
    factors = []  # the converter's generate_extra_tensors
    dim = config.head_dim
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    for i in range(0, dim, 2):
        wavelen = 2 * np.pi * rope["rope_theta"] ** (i / dim)
        smooth = (rope["original_max_position_embeddings"] / wavelen - rope["low_freq_factor"]) / (
            rope["high_freq_factor"] - rope["low_freq_factor"]
        )
        between = 1 / ((1 - smooth) / rope["factor"] + smooth)
        factors.append(1.0 if wavelen < high else rope["factor"] if wavelen > low else between)
    return {"rope_freqs.weight": np.array(factors, dtype=np.float32)}


def _metadata(config: Any, tiny: Tiny, dtype: str) -> Keys:
    rope = config.rope_parameters
    theta = rope.get("full_attention", rope)["rope_theta"]
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys: Keys = {
        "context_length": U32(config.max_position_embeddings),
        "embedding_length": U32(config.hidden_size),
        "block_count": U32(config.num_hidden_layers),
        "feed_forward_length": U32(config.intermediate_size),
        "attention.head_count": U32(config.num_attention_heads),
        "attention.head_count_kv": U32(config.num_key_value_heads),
        "attention.key_length": U32(head),
        "attention.value_length": U32(head),
        "rope.freq_base": F32(theta),
        "rope.dimension_count": U32(head),
        "vocab_size": U32(config.vocab_size),
    }
    if (eps := getattr(config, "rms_norm_eps", None)) is not None:
        keys["attention.layer_norm_rms_epsilon"] = F32(eps)
    keys |= tiny.keys(config)
    return {
        "general.architecture": tiny.arch,
        "general.name": "tiny",  # llama.cpp takes a name with phi-3 for its vocabulary
        "general.file_type": U32(FILE_TYPES[dtype]),
        **{f"{tiny.arch}.{key}": value for key, value in keys.items()},
        **WORDS.metadata,
    }
