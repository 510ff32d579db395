"""The sizes of a model that both its metadata and its tensors' shapes follow from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from localllm.errors import DamagedFile, EngineError
from localllm.formats.gguf import GGUFView
from localllm.formats.prefix import DAMAGED_HINT


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts. `n_rot` are the numbers of a head that rope turns, `n_embd` the width of the
    residual stream, `head_dim` of a head (not always n_embd / n_head)."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_rot: int
    n_vocab: int
    n_ctx_train: int

    def named(self) -> dict[str, int]:
        """The dimensions that tensors have, by the names that `families` uses."""
        q, kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        return {
            "vocab": self.n_vocab, "embd": self.n_embd, "ff": self.n_ff, "ff2": 2 * self.n_ff,
            "q": q, "kv": kv, "qkv": q + 2 * kv, "head": self.head_dim,
        }  # fmt: skip


def sizes_of_gguf(view: GGUFView) -> Sizes:
    """The sizes that a GGUF's keys tell, and the vocabulary's from its embedding.

    Raises DamagedFile for keys that are missing or make no sense, EngineError for layers of
    different sizes.
    """
    n_layer = _required(view, "block_count")
    if n_layer > len(view.tensors):  # a lie would cost memory below
        _senseless(view, f"{n_layer} layers of {len(view.tensors)} tensors")
    n_embd = _required(view, "embedding_length")
    _required(view, "attention.head_count", plain=False)
    n_head = _same(view, "attention.head_count", n_layer)
    n_head_kv = _same(view, "attention.head_count_kv", n_layer, n_head)
    n_ff = _same(view, "feed_forward_length", n_layer)
    head_dim = view.arch_u32("attention.key_length") or n_embd // max(n_head, 1)
    if view.arch_u32("attention.value_length", head_dim) != head_dim:
        raise EngineError(f"{view.name}: keys and values of different lengths are not supported")
    embedding = view.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise DamagedFile(f"{view.name}: it has no token embedding", DAMAGED_HINT)
    if not n_head or not n_head_kv or n_head % n_head_kv or head_dim % 2:
        _senseless(view, f"{n_head} heads of {head_dim}, {n_head_kv} of keys and values")
    n_rot = view.arch_u32("rope.dimension_count", head_dim)
    if not 0 < n_rot <= head_dim or n_rot % 2:
        _senseless(view, f"rope on {n_rot} of {head_dim} numbers of a head")
    return Sizes(
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=n_ff,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_rot=n_rot,
        n_vocab=embedding.shape[1],
        n_ctx_train=_required(view, "context_length"),
    )


def sizes_of_config(config: Mapping[str, Any]) -> Sizes:
    """The sizes that a `config.json` tells, defaults filled in (a config's `to_dict()`)."""
    n_head = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // n_head)
    rope = config.get("rope_parameters") or {}
    partial = float(rope.get("partial_rotary_factor") or 1.0) if isinstance(rope, dict) else 1.0
    return Sizes(
        n_layer=int(config["num_hidden_layers"]),
        n_embd=int(config["hidden_size"]),
        n_ff=int(config["intermediate_size"]),
        n_head=n_head,
        n_head_kv=int(config.get("num_key_value_heads") or n_head),
        head_dim=head_dim,
        n_rot=int(head_dim * partial),
        n_vocab=int(config["vocab_size"]),
        n_ctx_train=int(config["max_position_embeddings"]),
    )


def _required(view: GGUFView, name: str, *, plain: bool = True) -> int:
    if view.arch_key(name) not in view.metadata:
        raise DamagedFile(f"{view.name}: it has no {view.arch_key(name)}", DAMAGED_HINT)
    value = view.arch_u32(name) if plain else 1
    if not value:
        _senseless(view, f"{view.arch_key(name)} is {value}")
    return value


def _same(view: GGUFView, name: str, n_layer: int, default: int = 0) -> int:
    """A number that is the same for every layer."""
    values = set(view.arch_per_layer(name, n_layer, default))
    if len(values) != 1:
        raise EngineError(
            f"{view.name}: layers of different {name} cannot be trained", "localllm show MODEL"
        )
    return values.pop()


def _senseless(view: GGUFView, what: str) -> NoReturn:
    raise DamagedFile(f"{view.name}: it makes no sense: {what}", DAMAGED_HINT)
