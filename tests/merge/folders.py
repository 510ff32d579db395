"""Small safetensors models as Hugging Face lays them out, written and read by numpy alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

N_VOCAB, WIDTH, HIDDEN, LAYERS, HEADS, KV = 96, 64, 96, 3, 4, 2
_NUMPY = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


def config_of(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": N_VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        **changes,
    }


def weights(seed: int, n_layers: int = LAYERS) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    kv = WIDTH // HEADS * KV
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (N_VOCAB, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (N_VOCAB, WIDTH),
    }
    for i in range(n_layers):
        layer = f"model.layers.{i}."
        shapes |= {
            f"{layer}self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{layer}self_attn.k_proj.weight": (kv, WIDTH),
            f"{layer}self_attn.v_proj.weight": (kv, WIDTH),
            f"{layer}self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{layer}mlp.gate_proj.weight": (HIDDEN, WIDTH),
            f"{layer}mlp.up_proj.weight": (HIDDEN, WIDTH),
            f"{layer}mlp.down_proj.weight": (WIDTH, HIDDEN),
            f"{layer}input_layernorm.weight": (WIDTH,),
            f"{layer}post_attention_layernorm.weight": (WIDTH,),
        }
    return {name: (rng.standard_normal(s) * 0.05).astype("<f4") for name, s in shapes.items()}


def write_folder(
    folder: Path,
    tensors: Mapping[str, Any],
    *,
    shards: int = 1,
    dtype: str = "F32",
    config: Mapping[str, Any] | None = None,
) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config or config_of())))
    names = list(tensors)
    each = -(-len(names) // shards)
    placed: dict[str, str] = {}
    for i in range(shards):
        own = names[i * each : (i + 1) * each]
        file = (
            "model.safetensors" if shards == 1 else f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        )
        placed |= dict.fromkeys(own, file)
        _write(folder / file, {name: tensors[name] for name in own}, dtype)
    if shards > 1:
        index = {"metadata": {}, "weight_map": placed}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_family(folder: Path, *, shards: int = 1, dtype: str = "F32") -> dict[str, str]:
    """A base and two models near it; their paths by name."""
    base = weights(0)
    found = {}
    for name, seed in (("base", 0), ("first", 1), ("second", 2)):
        drift = weights(seed)
        own = base if seed == 0 else {k: v + np.float32(0.3) * drift[k] for k, v in base.items()}
        found[name] = str(write_folder(folder / name, own, shards=shards, dtype=dtype))
    return found


def read_folder(folder: Path) -> dict[str, Any]:
    """Every tensor in float32."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            values = np.frombuffer(
                raw[8 + length + start : 8 + length + end], _NUMPY[entry["dtype"]]
            )
            if entry["dtype"] == "BF16":
                values = (values.astype(np.uint32) << 16).view(np.float32)
            found[name] = values.astype(np.float32).reshape(entry["shape"])
    return found


def _write(path: Path, tensors: Mapping[str, Any], dtype: str) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        raw = _bytes(values, dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _bytes(values: Any, dtype: str) -> bytes:
    if dtype == "BF16":  # cut off: the tests only need numbers that are bfloat16
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype(_NUMPY[dtype]).tobytes()
