"""A Llama trained from scratch as a GGUF: config, weights, and a byte-level BPE tokenizer.

llama.cpp splits words as GPT-2 does where the pre-tokenizer is named `gpt-2`, which is what
`tokenizers`' ByteLevel does, and as Qwen 2 does (`qwen2`: digits one by one), which is a Split
with that pattern before it: the ids are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from localllm.errors import DamagedFile, EngineError, UsageProblem
from localllm.finetune.model.save import FILE_TYPES, FloatType, as_bytes
from localllm.formats.hf import Slot, family_of_model_type, sizes_of_config, slots_of
from localllm.formats.hf.write import TensorOut, Value, fresh_header, tensor_type, write_gguf

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # enum llama_token_type
# as llama.cpp's LLAMA_VOCAB_PRE_TYPE_QWEN2 and Qwen 2's own tokenizer.json have it
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens in the order of their ids, llama.cpp's type of each, and merges; `pre`
    is llama.cpp's name of how it cuts a text into words."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    pre: str = "gpt-2"


def write_scratch(
    module: PreTrainedModel,
    tokenizer_json: Path,
    out: Path,
    *,
    type: FloatType = "F16",
    metadata: Mapping[str, Value] | None = None,
    chat_template: str | None = None,
    add_bos: bool = False,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Write a `LlamaForCausalLM` and its tokenizer (`tokenizers`' JSON) as a GGUF.

    Begin and end of text are the config's `bos_token_id` and `eos_token_id`; `metadata` is
    added (`general.name`, ...). Ids past the tokenizer's are unused tokens. `out` is a
    temporary name of the caller's. Raises UsageProblem for a tokenizer that llama.cpp would
    not cut text like, or another family; DamagedFile for no tokenizer; OSError.
    """
    config = module.config
    if config.model_type != "llama":
        raise UsageProblem(f"a model from scratch is a llama, not a {config.model_type}")
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise UsageProblem(f"rope of the type {rope['rope_type']!r} is not written")
    words = read_vocabulary(tokenizer_json, int(config.vocab_size))
    values: dict[str, Value] = {
        **_model_keys(config, FILE_TYPES[type]),
        **(metadata or {}),
        **_tokenizer_keys(words, config, add_bos, chat_template),
    }
    write_gguf(out, fresh_header(out.name, values), _tensors(module, type), advance=advance)


def write_vocabulary(
    config: Any, tokenizer_json: Path, out: Path, *, add_bos: bool = False,
    chat_template: str | None = None,
) -> None:  # fmt: skip
    """The same without a tensor: what llama.cpp tokenizes by before there is a model.

    `config` is the LlamaConfig of the model to be. Raises as `write_scratch`.
    """
    words = read_vocabulary(tokenizer_json, int(config.vocab_size))
    values: dict[str, Value] = {
        **_model_keys(config, FILE_TYPES["F32"]),
        **_tokenizer_keys(words, config, add_bos, chat_template),
    }
    write_gguf(out, fresh_header(out.name, values), [])


def _tensors(module: PreTrainedModel, type: FloatType) -> list[TensorOut]:
    config, state = module.config, module.state_dict()
    tied = bool(config.tie_word_embeddings)
    slots = slots_of(
        family_of_model_type("llama", "llama"), sizes_of_config(config.to_dict()),
        lambda _, hf: hf in state, tied=tied,
    )  # fmt: skip
    return [_tensor(slot, state[slot.hf], type) for slot in slots]


def read_vocabulary(path: Path, n_vocab: int) -> Vocabulary:
    """The tokens of a `tokenizer.json` with byte-level BPE, `n_vocab` of them.

    Raises DamagedFile, UsageProblem (see `write_scratch`).
    """
    try:
        document = json.loads(path.read_bytes())
        model, added = document["model"], document.get("added_tokens") or []
        vocab, merges = dict(model["vocab"]), model["merges"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path.name} is no tokenizer: {error!r}"[:200]) from None
    pre = _words_of(document, path.name)
    by_id = {int(number): str(text) for text, number in vocab.items()}
    types = dict.fromkeys(by_id, NORMAL)
    for one in added:
        by_id[int(one["id"])] = str(one["content"])
        types[int(one["id"])] = CONTROL if one.get("special") else USER_DEFINED
    if max(by_id, default=-1) >= n_vocab:
        raise UsageProblem(f"{path.name} has {max(by_id) + 1} tokens, the model {n_vocab}")
    return Vocabulary(
        tuple(by_id.get(i, f"[UNUSED{i}]") for i in range(n_vocab)),
        tuple(types.get(i, UNUSED) for i in range(n_vocab)),
        tuple(one if isinstance(one, str) else " ".join(one) for one in merges),
        pre,
    )


def _words_of(document: Mapping[str, Any], name: str) -> str:
    """llama.cpp's name for how words are told apart: no normalizer, no space put before."""
    model, pre = document["model"], document.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", []) if pre.get("type") == "Sequence" else [pre]
    first, pre = (steps[0] if len(steps) == 2 else None), (steps or [{}])[-1]
    is_qwen2 = first is not None and (
        first.get("type"), first.get("pattern"), first.get("behavior"), first.get("invert")
    ) == ("Split", {"Regex": QWEN2_WORDS}, "Isolated", False)  # fmt: skip
    fits = (
        model.get("type") == "BPE"
        and not model.get("byte_fallback")
        and not model.get("dropout")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and document.get("normalizer") is None
        and pre.get("type") == "ByteLevel"
        and not pre.get("add_prefix_space", True)
        and (pre.get("use_regex", True) is not is_qwen2)
        and (is_qwen2 or len(steps) == 1)
    )
    if not fits:
        raise UsageProblem(
            f"{name}: llama.cpp cuts text like a byte-level BPE without a normalizer or a space "
            "in front, and this one is another"
        )
    return "qwen2" if is_qwen2 else "gpt-2"


def _model_keys(config: Any, file_type: int) -> dict[str, Value]:
    head = int(config.head_dim or config.hidden_size // config.num_attention_heads)
    return {
        "general.architecture": "llama",
        "general.type": "model",
        "general.file_type": file_type,
        "llama.vocab_size": int(config.vocab_size),
        "llama.context_length": int(config.max_position_embeddings),
        "llama.embedding_length": int(config.hidden_size),
        "llama.block_count": int(config.num_hidden_layers),
        "llama.feed_forward_length": int(config.intermediate_size),
        "llama.attention.head_count": int(config.num_attention_heads),
        "llama.attention.head_count_kv": int(config.num_key_value_heads),
        "llama.attention.key_length": head,
        "llama.attention.value_length": head,
        "llama.rope.dimension_count": head,
        "llama.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
    }


def _tokenizer_keys(
    words: Vocabulary, config: Any, add_bos: bool, chat_template: str | None
) -> dict[str, Value]:
    keys: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": words.pre,
        "tokenizer.ggml.tokens": words.tokens,
        "tokenizer.ggml.token_type": words.types,
        "tokenizer.ggml.merges": words.merges,
        "tokenizer.ggml.add_bos_token": add_bos,
    }
    for key, token in (
        ("bos", config.bos_token_id), ("eos", config.eos_token_id), ("padding", config.pad_token_id)
    ):  # fmt: skip
        if isinstance(token, int):
            keys[f"tokenizer.ggml.{key}_token_id"] = token
    if chat_template is not None:
        keys["tokenizer.chat_template"] = chat_template
    return keys


def _tensor(slot: Slot, weight: torch.Tensor, type: FloatType) -> TensorOut:
    kind = type if weight.ndim > 1 else "F32"
    if tuple(weight.shape) != slot.shape:
        raise EngineError(f"{slot.hf} has the shape {tuple(weight.shape)}, not {slot.shape}")

    def chunks() -> list[Any]:
        numbers = slot.layout.to_gguf(weight.detach().cpu().float().numpy())
        return [as_bytes(torch.from_numpy(numbers), kind, slot.gguf)]

    return TensorOut(slot.gguf, slot.shape, tensor_type(kind), chunks)
