"""A model's shape as llama.cpp sees it: what each layer caches and holds.

Mirrors `llama_model_base::load_hparams`, `llama-hparams.cpp` and the layer filters of
`llama_model::create_memory`; the per-architecture facts are in `archs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.errors import DamagedFile
from localllm.formats.gguf import GGUFView
from localllm.placement import archs

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS


@dataclass(frozen=True)
class LayerShape:
    """What one layer keeps for each token and each sequence. Widths are numbers of elements.

    `k_width` and `v_width` are of one cache cell, 0 where nothing is cached; `index_k` and
    `index_v` of a sparse-attention indexer's cell. `window` says that only the last tokens
    are kept. `conv_state` and `state` are of the rows that a recurrent layer holds for each
    sequence, in float32.
    """

    k_width: int = 0
    v_width: int = 0
    index_k: int = 0
    index_v: int = 0
    window: bool = False
    conv_state: int = 0
    state: int = 0

    @property
    def caches(self) -> bool:
        return self.k_width > 0 or self.v_width > 0


@dataclass(frozen=True)
class ModelShape:
    """The numbers that memory follows from.

    `n_layer_all` counts prediction layers (MTP) too, which llama.cpp numbers when it splits
    layers over devices but neither loads nor caches; `layers` has an entry for each.
    `n_window` is the sliding window in tokens (0: none), `n_ctx_train` the trained context (0:
    the file does not say). `exact`: the cache rules of this architecture are known.
    """

    architecture: str
    n_layer_all: int
    n_layer: int
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    n_head: int
    head_k: int
    head_v: int
    head_sizes: tuple[tuple[int, int], ...]  # every (key, value) size of a head there is
    n_expert: int
    n_expert_used: int
    n_window: int
    is_mla: bool
    kv_lora_rank: int
    layers: tuple[LayerShape, ...]
    exact: bool

    @property
    def recurrent(self) -> bool:
        """Whether any layer holds a state instead of, or beside, a cache."""
        return any(layer.state or layer.conv_state for layer in self.layers)

    @property
    def windowed(self) -> bool:
        return any(layer.window for layer in self.layers)


def model_shape(header: GGUFView) -> ModelShape:
    """Read the shape. Raises DamagedFile where the header lacks or garbles what it must have."""
    return _Reader(header).shape()


class _Reader:
    def __init__(self, header: GGUFView) -> None:
        self.header = header
        self.arch = header.architecture or ""
        self.n_layer_all = self._layer_count()
        nextn = header.arch_u32("nextn_predict_layers", 0)
        self.n_layer = max(0, self.n_layer_all - nextn)
        n = self.n_layer_all
        self.n_embd = header.arch_u32("embedding_length", 0)
        self.n_head = header.arch_per_layer("attention.head_count", n)
        has_kv_key = header.arch_key("attention.head_count_kv") in header.metadata
        self.n_kv = (
            header.arch_per_layer("attention.head_count_kv", n) if has_kv_key else self.n_head
        )
        self.n_ff = header.arch_per_layer("feed_forward_length", n)
        self.is_mla = all(
            header.arch_u32(f"attention.{side}_length_mla", 0) for side in ("key", "value")
        )
        # Heads are of this size unless the file says otherwise; models without heads have none.
        split = self.n_embd // self.n_head[0] if self.n_head[0] else 0
        reads = self.n_head[0] > 0 or self.arch == "plamo2"
        self.k = header.arch_u32("attention.key_length", split) if reads else 0
        self.v = header.arch_u32("attention.value_length", split) if reads else 0
        self.k_swa = header.arch_u32("attention.key_length_swa", self.k)
        self.v_swa = header.arch_u32("attention.value_length_swa", self.v)

    def _layer_count(self) -> int:
        n_layer = self.header.arch_u32("block_count", 0)
        if not 0 < n_layer <= MAX_LAYERS:
            raise DamagedFile(
                f"{self.header.name}: {n_layer} layers (llama.cpp: 1 to {MAX_LAYERS})"
            )
        return n_layer

    def shape(self) -> ModelShape:
        header = self.header
        n_window, windows = self._windows()
        recurrent = self._recurrent()
        return ModelShape(
            architecture=self.arch,
            n_layer_all=self.n_layer_all,
            n_layer=self.n_layer,
            n_ctx_train=header.arch_u32("context_length", 0),
            n_embd=self.n_embd,
            n_vocab=self._n_vocab(),
            n_head=max(self.n_head),
            head_k=self.k,
            head_v=self.v,
            head_sizes=self._head_sizes(windows),
            n_expert=header.arch_u32("expert_count", 0),
            n_expert_used=max(header.arch_per_layer("expert_used_count", self.n_layer_all)),
            n_window=n_window,
            is_mla=self.is_mla,
            kv_lora_rank=header.arch_u32("attention.kv_lora_rank", 0),
            layers=tuple(self._layer(i, windows[i], recurrent[i]) for i in range(self.n_layer_all)),
            exact=self.arch not in archs.INEXACT,
        )

    def _n_vocab(self) -> int:
        for name in ("output.weight", "token_embd.weight"):
            tensor = self.header.tensors.get(name)
            if tensor is not None and len(tensor.shape) > 1:
                return tensor.shape[1]
        return self.header.arch_u32("vocab_size", 0)

    def _head_sizes(self, windows: tuple[bool, ...]) -> tuple[tuple[int, int], ...]:
        both = {(self.k_swa, self.v_swa) if window else (self.k, self.v) for window in windows}
        return tuple(sorted(both))

    # --- layers ---------------------------------------------------------------------------

    def _layer(self, i: int, window: bool, recurrent: bool) -> LayerShape:
        if i >= self.n_layer:  # prediction layers: not loaded, not cached
            return LayerShape()
        k = v = index_k = index_v = 0
        if self._attends(i, recurrent):
            k = self.n_kv[i] * (self.k_swa if window else self.k)
            v = 0 if self.is_mla else self.n_kv[i] * (self.v_swa if window else self.v)
            if self.arch in archs.INDEXER and i >= self._leading_dense():
                index_k = self.header.arch_u32("attention.indexer.key_length", 0)
                index_v = 0 if self.is_mla else self.v
        conv, state = self._state() if recurrent else (0, 0)
        return LayerShape(k, v, index_k, index_v, window, conv, state)

    def _leading_dense(self) -> int:
        if self.arch != "minimax-m3":
            return 0
        return self.header.arch_u32("leading_dense_block_count", 0)

    def _attends(self, i: int, recurrent: bool) -> bool:
        """Whether layer `i` has cells of its own in the cache."""
        if self.arch in archs.NO_CACHE or self.arch in archs.RECURRENT:
            return False
        if self.arch in archs.RECURRENT_AND_ATTENTION:
            return True
        if self.arch in archs.RECURRENT_WITHOUT_HEADS_AND_FF:
            return not recurrent and self.n_ff[i] == 0
        if recurrent:
            return False
        if self.arch in archs.SHARED_CACHE:
            return i < self.n_layer_all - self.header.arch_u32("attention.shared_kv_layers", 0)
        return i < archs.CACHED_LAYERS.get(self.arch, self.n_layer_all)

    def _windows(self) -> tuple[int, tuple[bool, ...]]:
        """The window in tokens, and for each layer whether it has it."""
        none = (0, (False,) * self.n_layer_all)
        in_file = self.header.arch_u32("attention.sliding_window")
        if self.arch in archs.WINDOW_ON_ALL and in_file:
            recurrent = self._recurrent()
            return in_file, tuple(not recurrent[i] for i in range(self.n_layer_all))
        rule = archs.WINDOWS.get(self.arch)
        if rule is None or in_file == 0 or rule.only_layers not in (None, self.n_layer):
            return none
        tokens = in_file or rule.default
        return (rule.fixed or tokens, self._pattern(rule)) if tokens else none

    def _pattern(self, rule: archs.Window) -> tuple[bool, ...]:
        key = self.header.arch_key("attention.sliding_window_pattern")
        if isinstance(self.header.metadata.get(key), tuple):
            flags = self.header.arch_per_layer("attention.sliding_window_pattern", self.n_layer_all)
            return tuple(bool(flag) for flag in flags)
        period = self.header.arch_u32("attention.sliding_window_pattern", rule.period or 0)
        full = 0 if rule.full_first else period - 1
        return tuple(
            i < self.n_layer and (period == 0 or i % period != full)
            for i in range(self.n_layer_all)
        )

    def _recurrent(self) -> tuple[bool, ...]:
        n = self.n_layer_all
        if self.arch in archs.RECURRENT or self.arch in archs.RECURRENT_AND_ATTENTION:
            return (True,) * n
        if self.arch in archs.RECURRENT_WITHOUT_KV_HEADS:
            return tuple(i < self.n_layer and self.n_kv[i] == 0 for i in range(n))
        if self.arch in archs.RECURRENT_WITHOUT_HEADS_AND_FF:
            return tuple(
                i < self.n_layer and self.n_kv[i] == 0 and self.n_ff[i] == 0 for i in range(n)
            )
        if self.arch in archs.ATTENTION_INTERVAL:
            if self.header.arch_key("attention.recurrent_layers") in self.header.metadata:
                flags = self.header.arch_per_layer("attention.recurrent_layers", n)
                return tuple(bool(flag) for flag in flags)
            default = archs.ATTENTION_INTERVAL[self.arch]
            every = self.header.arch_u32("full_attention_interval", default) or default
            return tuple(i < self.n_layer and (i + 1) % every != 0 for i in range(n))
        return (False,) * n

    def _state(self) -> tuple[int, int]:
        """Elements of the rolling and of the recurrent state: n_embd_r and n_embd_s."""
        u32, n_head = self.header.arch_u32, self.n_head[0]
        if wkv := u32("wkv.head_size", 0):
            return u32("token_shift_count", 2) * self.n_embd, self.n_embd * wkv
        conv, inner, state = (
            u32(f"ssm.{k}", 0) for k in ("conv_kernel", "inner_size", "state_size")
        )
        if cells := u32("shortconv.l_cache", 0):
            return self.n_embd * (cells - 1), state * inner
        if kda := u32("kda.head_dim", 0):
            return 3 * (conv - 1 if conv else 3) * n_head * kda, kda * kda * n_head
        rolling = (conv - 1 if conv else 0) * (inner + 2 * u32("ssm.group_count", 0) * state)
        if self.arch in archs.SQUARE_STATE:
            return rolling, self.k * self.k * n_head
        return rolling, state * inner
