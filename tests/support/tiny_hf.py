"""Tiny Hugging Face folders with random weights: config.json, model.safetensors, tokenizer.json.

    folder = tiny_hf(tmp_path / "hf")                      # a llama that transformers loads
    tiny_hf(tmp_path / "q", architecture="Qwen2ForCausalLM", dtype="BF16")
    tiny_hf_adapter(tmp_path / "lora", rank=4)             # peft's layout
    tiny_hf_vision(tmp_path / "vision")                    # what becomes an mmproj

The files are written here byte by byte, so that neither torch nor transformers is needed. The
tokenizer is the byte-level BPE of `tiny_vocab`, which llama.cpp's converter does not know.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.tiny_vocab import BPE_MERGES, bpe_vocab

MODEL_TYPES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}


def tiny_hf(
    folder: Path,
    *,
    architecture: str = "LlamaForCausalLM",
    dtype: str = "F16",
    seed: int = 0,
    n_layer: int = 2,
    n_embd: int = 256,
    n_ff: int = 512,
    n_head: int = 4,
    n_head_kv: int = 2,
    tokenizer: bool = True,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A causal language model as Hugging Face lays it out; `config` replaces keys."""
    folder.mkdir(parents=True)
    n_vocab = len(bpe_vocab()) + 16  # transformers adds tokens of its own for some
    values = {
        "architectures": [architecture],
        "model_type": MODEL_TYPES.get(architecture, "llama"),
        "hidden_size": n_embd,
        "intermediate_size": n_ff,
        "num_hidden_layers": n_layer,
        "num_attention_heads": n_head,
        "num_key_value_heads": n_head_kv,
        "vocab_size": n_vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": bpe_vocab().bos,
        "eos_token_id": bpe_vocab().eos,
        "hidden_act": "silu",
        "torch_dtype": {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[dtype],
        **(config or {}),
    }
    (folder / "config.json").write_text(json.dumps(values))
    shapes = _shapes(architecture, n_layer, n_embd, n_ff, n_head, n_head_kv, n_vocab)
    write_safetensors(folder / "model.safetensors", shapes, dtype, seed)
    if tokenizer:
        _tokenizer(folder)
    return folder


def tiny_hf_adapter(folder: Path, *, rank: int = 4, n_layer: int = 2, n_embd: int = 256) -> Path:
    """A LoRA on q of every layer, as peft saves it."""
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"],
                "base_model_name_or_path": "org/tiny", "task_type": "CAUSAL_LM"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    shapes = {}
    for i in range(n_layer):
        name = f"base_model.model.model.layers.{i}.self_attn.q_proj"
        shapes[f"{name}.lora_A.weight"] = (rank, n_embd)
        shapes[f"{name}.lora_B.weight"] = (n_embd, rank)
    write_safetensors(folder / "adapter_model.safetensors", shapes, "F32", 1)
    return folder


def tiny_hf_vision(
    folder: Path,
    *,
    n_layer: int = 2,
    n_embd: int = 64,
    n_ff: int = 128,
    n_embd_text: int = 256,
    image_size: int = 32,
    patch: int = 8,
    dtype: str = "F32",
) -> Path:
    """The vision part of a Gemma 3 (SigLIP and its projector); its text model is not there. An
    image becomes four tokens."""
    folder.mkdir(parents=True)
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": n_embd, "intermediate_size": n_ff,
        "num_hidden_layers": n_layer, "num_attention_heads": 4, "image_size": image_size,
        "patch_size": patch, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh",
    }  # fmt: skip
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "hidden_size": n_embd_text},
        "vision_config": vision, "mm_tokens_per_image": 4,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    seen = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "image_seq_length": 4,
            "size": {"height": image_size, "width": image_size}}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(seen))
    tower = "vision_tower.vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{tower}embeddings.patch_embedding.weight": (n_embd, 3, patch, patch),
        f"{tower}embeddings.patch_embedding.bias": (n_embd,),
        f"{tower}embeddings.position_embedding.weight": ((image_size // patch) ** 2, n_embd),
        f"{tower}post_layernorm.weight": (n_embd,),
        f"{tower}post_layernorm.bias": (n_embd,),
        "multi_modal_projector.mm_input_projection_weight": (n_embd, n_embd_text),
        "multi_modal_projector.mm_soft_emb_norm.weight": (n_embd,),
    }
    for i in range(n_layer):
        block = f"{tower}encoder.layers.{i}."
        sizes = {f"self_attn.{one}_proj": (n_embd, n_embd) for one in ("q", "k", "v", "out")}
        sizes |= {"mlp.fc1": (n_ff, n_embd), "mlp.fc2": (n_embd, n_ff)}
        for name, shape in sizes.items():
            shapes |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{block}{name}.weight": (n_embd,), f"{block}{name}.bias": (n_embd,)}
    write_safetensors(folder / "model.safetensors", shapes, dtype, 3)
    return folder


def _shapes(
    architecture: str, n_layer: int, n_embd: int, n_ff: int, n_head: int, n_kv: int, n_vocab: int
) -> dict[str, tuple[int, ...]]:
    head = n_embd // n_head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (n_vocab, n_embd),
        "model.norm.weight": (n_embd,),
        "lm_head.weight": (n_vocab, n_embd),
    }
    for i in range(n_layer):
        block = f"model.layers.{i}."
        shapes |= {
            f"{block}self_attn.q_proj.weight": (n_embd, n_embd),
            f"{block}self_attn.k_proj.weight": (n_kv * head, n_embd),
            f"{block}self_attn.v_proj.weight": (n_kv * head, n_embd),
            f"{block}self_attn.o_proj.weight": (n_embd, n_embd),
            f"{block}mlp.gate_proj.weight": (n_ff, n_embd),
            f"{block}mlp.up_proj.weight": (n_ff, n_embd),
            f"{block}mlp.down_proj.weight": (n_embd, n_ff),
            f"{block}input_layernorm.weight": (n_embd,),
            f"{block}post_attention_layernorm.weight": (n_embd,),
        }
        if architecture == "Qwen2ForCausalLM":
            shapes[f"{block}self_attn.q_proj.bias"] = (n_embd,)
            shapes[f"{block}self_attn.k_proj.bias"] = (n_kv * head,)
            shapes[f"{block}self_attn.v_proj.bias"] = (n_kv * head,)
    return shapes


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, seed: int
) -> None:
    """Random weights: norms near 1, biases near 0, matrices of unit gain."""
    import numpy as np

    rng = np.random.default_rng(seed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, offset = [], 0
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            values = values * 0.02 + (0.0 if name.endswith("bias") else 1.0)
        else:
            values = values * shape[-1] ** -0.5
        data = _stored(values, dtype)
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [offset, offset + len(data)]}  # fmt: skip
        parts.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def _stored(values: Any, dtype: str) -> bytes:
    import numpy as np

    if dtype == "F16":
        return bytes(values.astype(np.float16).tobytes())
    as_float = values.astype(np.float32)
    if dtype == "BF16":  # the upper half, ties aside
        return bytes((as_float.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return bytes(as_float.tobytes())


def _tokenizer(folder: Path) -> None:
    vocab = bpe_vocab()
    specials, known = vocab.tokens[-4:], set(vocab.tokens)
    added = [
        {"id": vocab.id(t), "content": t, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for t in specials
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}  # fmt: skip
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
                  "byte_fallback": False, "vocab": {t: i for i, t in enumerate(vocab.tokens[:-4])},
                  "merges": [m.split(" ") for m in BPE_MERGES if set(m.split(" ")) <= known]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": specials[0],
                "eos_token": specials[1], "model_max_length": 2048}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
