"""The cache and the states that a context holds, layer by layer, as llama.cpp allocates them.

Sources: `llama_context` (padding of n_ctx), `llama-kv-cache.cpp`, `llama-kv-cache-iswa.cpp`
and `llama-memory-recurrent.cpp`.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.errors import UsageProblem
from localllm.formats.gguf.types import GGML_TYPES, GGMLType
from localllm.placement.shape import ModelShape

CELL_PADDING = 256
STATE_BYTES = 4  # recurrent states are float32 whatever the cache's type

# What llama.cpp takes as cache types (common/arg.cpp, kv_cache_types).
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_BY_NAME = {t.name.lower(): t for t in GGML_TYPES.values()}


@dataclass(frozen=True)
class CacheOptions:
    """What decides a cache's size. `n_ctx` is llama.cpp's: shared by `n_seq_max` sequences.

    `flash_attn` False pads the values' rows where layers differ in width.
    """

    n_ctx: int
    n_batch: int = 2048
    n_ubatch: int = 512
    n_seq_max: int = 1
    type_k: str = "f16"
    type_v: str = "f16"
    kv_unified: bool = False
    swa_full: bool = False
    flash_attn: bool = True


@dataclass(frozen=True)
class Cells:
    """Cells of the cache: of full layers, of windowed ones, and how many streams of each."""

    full: int
    window: int
    n_stream: int


@dataclass(frozen=True)
class Cache:
    """Bytes of each layer: of its cache, and of its recurrent state."""

    kv_bytes: tuple[int, ...]
    state_bytes: tuple[int, ...]
    cells: Cells

    @property
    def total_kv_bytes(self) -> int:
        return sum(self.kv_bytes)

    @property
    def total_state_bytes(self) -> int:
        return sum(self.state_bytes)

    def layer_bytes(self, i: int) -> int:
        return self.kv_bytes[i] + self.state_bytes[i]


def cache_type(name: str) -> GGMLType:
    """The ggml type of a cache type's name. Raises UsageProblem."""
    if name.lower() not in CACHE_TYPES:
        raise UsageProblem(f"{name!r} is no KV cache type", f"one of {', '.join(CACHE_TYPES)}")
    return _BY_NAME[name.lower()]


def cells_of(shape: ModelShape, options: CacheOptions) -> Cells:
    """How many cells llama.cpp makes for these options."""
    n_seq = max(1, options.n_seq_max)
    n_ctx = _pad(options.n_ctx)
    full = n_ctx if options.kv_unified else _pad(n_ctx // n_seq)
    window = full
    if shape.windowed and not options.swa_full:
        batch = min(options.n_ubatch, options.n_batch, options.n_ctx)
        seen = shape.n_window * (n_seq if options.kv_unified else 1) + batch
        window = _pad(min(full, seen))
    return Cells(full, window, 1 if options.kv_unified else n_seq)


def model_cache(shape: ModelShape, options: CacheOptions) -> Cache:
    """Bytes of each layer's cache and state. Exact where `shape.exact`.

    Raises UsageProblem for a cache type that llama.cpp does not take, or whose blocks do not
    divide the model's heads.
    """
    k_type, v_type = cache_type(options.type_k), cache_type(options.type_v)
    _check_types(shape, k_type, v_type, options.flash_attn)
    cells = cells_of(shape, options)
    widest_v = max((layer.v_width for layer in shape.layers), default=0)
    n_state = max(1, options.n_seq_max)
    kv, states = [], []
    for layer in shape.layers:
        n_cells = (cells.window if layer.window else cells.full) * cells.n_stream
        v_width = layer.v_width if options.flash_attn or not layer.v_width else widest_v
        kv.append(
            _row(layer.k_width, k_type) * n_cells
            + _row(v_width, v_type) * n_cells
            + (_row(layer.index_k, k_type) + _row(layer.index_v, v_type)) * n_cells
        )
        states.append((layer.conv_state + layer.state) * n_state * STATE_BYTES)
    return Cache(tuple(kv), tuple(states), cells)


def bytes_per_token(shape: ModelShape, type_k: str = "f16", type_v: str = "f16") -> int:
    """What each further token of context costs over all full layers."""
    k_type, v_type = cache_type(type_k), cache_type(type_v)
    return sum(
        _row(layer.k_width + layer.index_k, k_type) + _row(layer.v_width + layer.index_v, v_type)
        for layer in shape.layers
        if not layer.window
    )


def _row(width: int, kind: GGMLType) -> int:
    """ggml_row_size: whole blocks only."""
    return width // kind.block_elements * kind.block_bytes


def _pad(n: int) -> int:
    return n + -n % CELL_PADDING


def _check_types(shape: ModelShape, k_type: GGMLType, v_type: GGMLType, flash: bool) -> None:
    """What llama_init_from_model refuses, said before anything is loaded."""
    if shape.is_mla and k_type is not v_type:
        raise UsageProblem(
            f"this model keeps K and V in one cache: it cannot be {k_type.name.lower()} and "
            f"{v_type.name.lower()} at once"
        )
    if not flash:
        if v_type.block_elements > 1:
            raise UsageProblem(f"a {v_type.name.lower()} V cache needs flash attention")
        return
    for sizes in shape.head_sizes:
        for kind, side, size in zip((k_type, v_type), "KV", sizes, strict=True):
            if size % kind.block_elements:
                raise UsageProblem(
                    f"the {side} cache cannot be {kind.name.lower()}: its blocks of "
                    f"{kind.block_elements} do not divide this model's heads of {size}",
                    "use --kv f16",
                )
