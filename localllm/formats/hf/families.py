"""The families of models that are known both to llama.cpp and to transformers, as tables.

A family says which tensor of a GGUF is which parameter of a `*ForCausalLM`, how its numbers
lie, and which keys make the config. Only families whose logits the tests compare with
llama.cpp's are here. Sources: `gguf-py/gguf/tensor_mapping.py`, llama.cpp's converter and
`src/models/*.cpp`, transformers' `modeling_*.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from localllm.errors import EngineError
from localllm.formats.gguf import GGUFView
from localllm.formats.hf import configs
from localllm.formats.hf.rope import FREQS, LONG, SHORT
from localllm.formats.hf.sizes import Sizes

Configure = Callable[[GGUFView, Sizes], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """One module of transformers and its tensors: `.weight`, and `.bias` where it has one.

    `gguf` and `hf` are names below the block or at the top. `shape` names the sizes of the
    weight, rows first. `rope` is "q" or "kv" where rows are paired for llama.cpp's rope.
    `bias` is "yes", "" for none, or the switch of the config that all parts with the same
    switch share ("attention_bias").
    """

    gguf: str
    hf: str
    shape: tuple[str, ...]
    rope: str = ""
    shift: float = 0.0
    bias: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """`arch` is llama.cpp's name and `model_type` transformers'; `class_name` the module.

    `also` are other model types that become the same arch (Mistral is a llama to llama.cpp).
    `eager`: only transformers' own attention computes it (soft caps). `partial_rope`: a part
    of each head is turned. `heads_fill`: q and the heads' output are as wide as the model.
    """

    arch: str
    model_type: str
    class_name: str
    block: tuple[Part, ...]
    top: tuple[Part, ...]
    configure: Configure
    also: Mapping[str, str] | None = None  # model type -> class name
    eager: bool = False
    partial_rope: bool = False
    heads_fill: bool = False
    tied: bool | None = None  # None: either, told by whether there is an output tensor
    rope_tensors: tuple[str, ...] = ()  # factors that llama.cpp takes for it

    @property
    def switches(self) -> tuple[str, ...]:
        """The config's switches for biases."""
        named = {part.bias for part in (*self.top, *self.block)} - {"", "yes"}
        return tuple(sorted(named))


def _norm(gguf: str, hf: str, size: str = "embd", shift: float = 0.0, bias: str = "") -> Part:
    return Part(gguf, hf, (size,), shift=shift, bias=bias)


def _attention(
    bias: str = "", out_bias: str | None = None, paired: bool = False
) -> tuple[Part, ...]:
    at, out_bias = "self_attn.", bias if out_bias is None else out_bias
    return (
        Part("attn_q", f"{at}q_proj", ("q", "embd"), rope="q" if paired else "", bias=bias),
        Part("attn_k", f"{at}k_proj", ("kv", "embd"), rope="kv" if paired else "", bias=bias),
        Part("attn_v", f"{at}v_proj", ("kv", "embd"), bias=bias),
        Part(
            "attn_output", f"{at}o_proj", ("embd", "q"), bias=bias if out_bias is None else out_bias
        ),
    )


def _mlp(bias: str = "") -> tuple[Part, ...]:
    return (
        Part("ffn_gate", "mlp.gate_proj", ("ff", "embd"), bias=bias),
        Part("ffn_up", "mlp.up_proj", ("ff", "embd"), bias=bias),
        Part("ffn_down", "mlp.down_proj", ("embd", "ff"), bias=bias),
    )


def _top(shift: float = 0.0, bias: str = "") -> tuple[Part, ...]:
    return (
        Part("token_embd", "model.embed_tokens", ("vocab", "embd")),
        _norm("output_norm", "model.norm", shift=shift, bias=bias),
        Part("output", "lm_head", ("vocab", "embd")),
    )


def _pre_norms(second: str = "ffn_norm", shift: float = 0.0, bias: str = "") -> tuple[Part, ...]:
    return (
        _norm("attn_norm", "input_layernorm", shift=shift, bias=bias),
        _norm(second, "post_attention_layernorm", shift=shift, bias=bias),
    )


def _head_norms(shift: float = 0.0, sizes: tuple[str, str] = ("head", "head")) -> tuple[Part, ...]:
    return (
        _norm("attn_q_norm", "self_attn.q_norm", sizes[0], shift=shift),
        _norm("attn_k_norm", "self_attn.k_norm", sizes[1], shift=shift),
    )


_SANDWICH = (  # Gemma 2 and 3: norms before and after both halves of a layer
    _norm("attn_norm", "input_layernorm", shift=1.0),
    _norm("post_attention_norm", "post_attention_layernorm", shift=1.0),
    _norm("ffn_norm", "pre_feedforward_layernorm", shift=1.0),
    _norm("post_ffw_norm", "post_feedforward_layernorm", shift=1.0),
)

_LLAMA = (*_pre_norms(), *_attention("attention_bias", paired=True), *_mlp("mlp_bias"))
_OLMO = (
    _norm("post_attention_norm", "post_attention_layernorm"),
    _norm("post_ffw_norm", "post_feedforward_layernorm"),
    *_head_norms(sizes=("q", "kv")),
    *_attention(),
    *_mlp(),
)
_PHI3 = (
    *_pre_norms(),
    Part("attn_qkv", "self_attn.qkv_proj", ("qkv", "embd")),
    Part("attn_output", "self_attn.o_proj", ("embd", "q")),
    Part("ffn_up", "mlp.gate_up_proj", ("ff2", "embd")),
    Part("ffn_down", "mlp.down_proj", ("embd", "ff")),
)
_STARCODER2 = (
    *_pre_norms(bias="yes"),
    *_attention("yes"),
    Part("ffn_up", "mlp.c_fc", ("ff", "embd"), bias="yes"),
    Part("ffn_down", "mlp.c_proj", ("embd", "ff"), bias="yes"),
)

FAMILIES: tuple[Family, ...] = (
    Family("llama", "llama", "LlamaForCausalLM", _LLAMA, _top(), configs.plain,
           also={"mistral": "MistralForCausalLM"}, rope_tensors=(FREQS,)),
    Family("qwen2", "qwen2", "Qwen2ForCausalLM",
           (*_pre_norms(), *_attention("yes", out_bias=""), *_mlp()), _top(), configs.plain),
    Family("qwen3", "qwen3", "Qwen3ForCausalLM",
           (*_pre_norms(), *_head_norms(), *_attention("attention_bias"), *_mlp()), _top(),
           configs.plain),
    Family("gemma", "gemma", "GemmaForCausalLM",
           (*_pre_norms(shift=1.0), *_attention(), *_mlp()), _top(shift=1.0), configs.gemma,
           tied=True),
    Family("gemma2", "gemma2", "Gemma2ForCausalLM",
           (*_SANDWICH, *_attention(), *_mlp()), _top(shift=1.0), configs.gemma2, eager=True,
           tied=True),
    Family("gemma3", "gemma3_text", "Gemma3ForCausalLM",
           (*_SANDWICH, *_head_norms(shift=1.0), *_attention(), *_mlp()), _top(shift=1.0),
           configs.gemma3),
    Family("phi3", "phi3", "Phi3ForCausalLM", _PHI3, _top(), configs.phi3,
           partial_rope=True, heads_fill=True, rope_tensors=(SHORT, LONG)),
    Family("mistral3", "ministral3", "Ministral3ForCausalLM",
           (*_pre_norms(), *_attention(paired=True), *_mlp()), _top(), configs.mistral3,
           also={"llama": "LlamaForCausalLM"}, rope_tensors=(FREQS,)),
    Family("ernie4_5", "ernie4_5", "Ernie4_5ForCausalLM",
           (*_pre_norms(), *_attention("use_bias"), *_mlp("use_bias")), _top(), configs.plain),
    Family("arcee", "arcee", "ArceeForCausalLM",
           (*_pre_norms(), *_attention("attention_bias", paired=True),
            Part("ffn_up", "mlp.up_proj", ("ff", "embd")),
            Part("ffn_down", "mlp.down_proj", ("embd", "ff"))), _top(), configs.arcee,
           rope_tensors=(FREQS,)),
    Family("granite", "granite", "GraniteForCausalLM", _LLAMA, _top(), configs.granite,
           rope_tensors=(FREQS,)),
    Family("smollm3", "smollm3", "SmolLM3ForCausalLM",
           (*_pre_norms(), *_attention(paired=True), *_mlp()), _top(), configs.smollm3),
    Family("olmo2", "olmo2", "Olmo2ForCausalLM", _OLMO, _top(), configs.olmo2,
           also={"olmo3": "Olmo3ForCausalLM"}, heads_fill=True, tied=False),
    Family("starcoder2", "starcoder2", "Starcoder2ForCausalLM", _STARCODER2, _top(bias="yes"),
           configs.starcoder2, heads_fill=True),
    Family("stablelm", "stablelm", "StableLmForCausalLM",
           (*_pre_norms(bias="yes"), *_attention("use_qkv_bias", out_bias=""), *_mlp()),
           _top(bias="yes"), configs.stablelm, partial_rope=True, heads_fill=True, tied=False),
    Family("seed_oss", "seed_oss", "SeedOssForCausalLM",
           (*_pre_norms("post_attention_norm"), *_attention("attention_bias", out_bias=""),
            *_mlp()), _top(), configs.seed_oss),
)  # fmt: skip

_BY_ARCH = {family.arch: family for family in FAMILIES}
# a family's own type comes before what others also make of it
_BY_TYPE = {model_type: family for family in FAMILIES for model_type in family.also or ()} | {
    family.model_type: family for family in FAMILIES
}


def family_of_arch(arch: str, name: str) -> Family:
    """The family of llama.cpp's `arch`; `name` is for the message. Raises EngineError."""
    return _known(_BY_ARCH, arch, name)


def family_of_model_type(model_type: str, name: str) -> Family:
    """The family of a config's `model_type`. Raises EngineError."""
    return _known(_BY_TYPE, model_type, name)


def _known(table: Mapping[str, Family], key: str, name: str) -> Family:
    if key not in table:
        raise EngineError(
            f"{name}: models of the architecture {key!r} cannot be trained yet",
            f"those of {', '.join(_BY_ARCH)} can",
        )
    return table[key]
