"""What llama.cpp's loaders know of each architecture and a GGUF header does not say.

Read from llama.cpp's `src/models/*.cpp` (load_arch_hparams) and `llama_model::create_memory`,
release 0c1e57098 (llama-cpp-python 0.3.36). An architecture that is in no table here caches
every layer in full, which holds for most. Where even the tables do not reach (`INEXACT`),
the cache is an estimate unless llama.cpp itself is asked.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """How an architecture uses sliding windows.

    Of every `period` layers one sees everything: the last, or the first if `full_first`; a
    `sliding_window_pattern` key in the file, number or array, goes before `period`. `period`
    None: the file must have the array. `default` is the window where the file gives none
    (None: then there are no windows); `fixed` is the window wherever there is one.
    `only_layers`: windows exist only in models of this depth.
    """

    period: int | None
    full_first: bool = False
    default: int | None = None
    fixed: int | None = None
    only_layers: int | None = None


# load_swa_pattern(ml, n, dense_first) and what surrounds it in each loader. phi3 has the key
# and is missing here on purpose: llama.cpp switches its windows off. The llama family
# (Mistral included) does not read the key at all.
WINDOWS: dict[str, Window] = {
    "afmoe": Window(4),
    "cohere2": Window(4),
    "cohere2moe": Window(4, full_first=True),
    "dots3note": Window(None),
    "exaone-moe": Window(4, default=128),
    "exaone4": Window(4, default=4096, only_layers=64),
    "gemma2": Window(2, default=4096),
    "gemma3": Window(6),
    "gemma3n": Window(5),
    "gemma4": Window(None),
    "gpt-oss": Window(2),
    "granite_swa": Window(None),
    "laguna": Window(4, full_first=True),
    "llama4": Window(4, default=8192, fixed=8192),
    "maple": Window(None),
    "mellum": Window(4),
    "mimo2": Window(None),
    "muse-glimmer": Window(4),
    "olmo2": Window(4),
    "plamo3": Window(8),
    "smallthinker": Window(4, full_first=True, fixed=4096),
    "spark2_5": Window(None),
    "step35": Window(None),
}

# Windows on every attention layer of a hybrid, where the file gives a window (lfm2.cpp).
WINDOW_ON_ALL = frozenset({"lfm2"})

# create_memory returns nullptr: encoders and diffusion models keep nothing between calls.
NO_CACHE = frozenset(
    {
        "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada",
        "llada-moe", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1",
        "wavtokenizer-dec",
    }
)  # fmt: skip

# No logits: a missing output.weight then means that there is no output matrix.
NO_OUTPUT = frozenset(
    {
        "bert", "eurobert", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert",
        "nomic-bert", "nomic-bert-moe", "t5encoder",
    }
)  # fmt: skip

# llm_arch_is_recurrent: every layer holds a state, none a cache.
RECURRENT = frozenset({"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"})

# Hybrids in which the layers without key-value heads are the recurrent ones.
RECURRENT_WITHOUT_KV_HEADS = frozenset(
    {
        "bailingmoe3", "glm5-next", "granitehybrid", "jamba", "kimi-k3", "kimi-linear", "lfm2",
        "lfm2moe", "plamo2",
    }
)  # fmt: skip

# ... in which a layer with neither heads nor a feed-forward length is recurrent, and one with
# a feed-forward length is neither attention nor recurrent.
RECURRENT_WITHOUT_HEADS_AND_FF = frozenset({"nemotron_h", "nemotron_h_moe"})

# ... in which each layer is both.
RECURRENT_AND_ATTENTION = frozenset({"falcon-h1"})

# ... in which every n-th layer is attention (full_attention_interval; here its default).
ATTENTION_INTERVAL: dict[str, int] = {
    "minimax-01": 8,
    "qwen35": 4,
    "qwen35moe": 4,
    "qwen3next": 4,
    "qwen4exp": 4,
}

# The last layers reuse the cache of earlier ones: only this many from the start hold one.
CACHED_LAYERS: dict[str, int] = {"gemma3n": 20}
SHARED_CACHE = frozenset({"gemma4"})  # ... all but `attention.shared_kv_layers` of them

# An extra cache of indexer keys beside the main one (sparse attention), on every layer that
# caches; for minimax-m3 not on the leading dense ones. Its values are cached too, unless the
# main cache is MLA.
INDEXER = frozenset({"deepseek32", "minimax-m3"})

# Linear attention whose state is one square matrix a head (MiniMax-Text-01).
SQUARE_STATE = frozenset({"minimax-01"})

# Caches of a form of their own, of another model, or layers that the header does not list.
INEXACT = frozenset(
    {
        "deepseek4", "dflash", "dots3note", "eagle3", "gemma4-assistant", "glm-dsa", "glm5-next",
        "graniteswitch", "hrm_text", "hy_v4", "nanbeige", "qwen4exp", "t5", "wavtokenizer-dec",
    }
)  # fmt: skip
