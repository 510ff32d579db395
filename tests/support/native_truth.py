"""What llama.cpp itself says a context needs: its `llama_get_memory_breakdown`.

This is the number that llama.cpp's own programs fit models with: for every buffer type the
bytes of weights, cache and compute, summed by ggml's allocator over the real tensors. With
`no_alloc` nothing is allocated, so a 70B model is measured in a fraction of a second; without
it the sizes are those of the buffers that exist. It shares nothing with localllm's own way
(log lines and arithmetic).

The function returns a `std::map` by value, which C cannot name: the red-black tree of
libstdc++ is walked here. Linux with GNU's C++ library only; `available()` says whether.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localllm.engine import native

_SYMBOL = "_Z26llama_get_memory_breakdownPK13llama_context"


@dataclass(frozen=True)
class Bytes:
    model: int = 0
    context: int = 0
    compute: int = 0

    @property
    def total(self) -> int:
        return self.model + self.context + self.compute


class _Map(ctypes.Structure):
    # comparator and padding; then the header node: colour, parent (the root), left, right; count
    _fields_ = [("words", ctypes.c_uint64 * 6)]


def available() -> bool:
    return sys.platform == "linux" and hasattr(native.lib()._lib, _SYMBOL)


def breakdown(context: int) -> dict[str, Bytes]:
    """Buffer type name ("CPU", "CPU_REPACK", "Vulkan0") -> bytes, for a llama_context address."""
    get = getattr(native.lib()._lib, _SYMBOL)
    get.restype, get.argtypes = _Map, [ctypes.c_void_p]
    name = native.ggml("ggml_backend_buft_name", ctypes.c_char_p, ctypes.c_void_p)
    result: dict[str, Bytes] = {}
    pending = [get(context).words[2]]
    while pending:
        if node := pending.pop():
            words = (ctypes.c_uint64 * 8).from_address(node)
            result[name(words[4]).decode()] = Bytes(*(int(w) for w in words[5:8]))
            pending += [words[2], words[3]]
    return result


@dataclass(frozen=True)
class Truth:
    """Bytes by buffer type, and the log lines of the same run."""

    buffers: dict[str, Bytes]
    output_bytes: int
    log: tuple[str, ...]

    @property
    def total(self) -> int:
        return sum(b.total for b in self.buffers.values()) + self.output_bytes


def measure(
    path: Path, *, real: bool = False, gpus: bool = False, n_gpu_layers: int = -1,
    tensor_split: tuple[float, ...] = (), **context: Any,
) -> Truth:  # fmt: skip
    """Load `path` and make a context; `real` allocates and reads the weights without mmap.
    Without `gpus` this build's GPUs, if any, are left out."""
    llama = native.lib()
    params = llama.llama_model_default_params()
    params.no_alloc, params.load_mode = not real, 0
    params.n_gpu_layers = n_gpu_layers
    no_devices = (ctypes.c_void_p * 1)(None)
    if not gpus:
        params.devices = ctypes.cast(no_devices, ctypes.c_void_p)
    split = (ctypes.c_float * llama.llama_max_devices())(*tensor_split)
    if tensor_split:
        params.tensor_split = split
    with native.capture() as log:
        model = llama.llama_model_load_from_file(str(path).encode(), params)
        assert model, native.reason(log)
        options = llama.llama_context_default_params()
        options.n_batch = 2048
        for key, value in context.items():
            assert hasattr(options, key), key
            setattr(options, key, value)
        made = llama.llama_init_from_model(model, options)
        assert made, native.reason(log)
        buffers = breakdown(made)
        n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        output_bytes = 4 * n_vocab * max(1, options.n_seq_max)
    llama.llama_free(made)
    llama.llama_model_free(model)
    return Truth(buffers, output_bytes, tuple(line.text for line in log.lines))
