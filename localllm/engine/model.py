"""A loaded model: its weights' handle, its facts and its vocabulary."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from localllm.engine import native, rpc
from localllm.engine.handle import NativeObject
from localllm.engine.load import Advance, load_handle
from localllm.engine.memory import BufferUse, buffers_of
from localllm.engine.options import LoadOptions
from localllm.engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelInfo:
    """What llama.cpp says of a loaded model. Counts are 0 where vocab_only skipped them."""

    description: str  # "gemma3 270M Q4_K - Medium"
    architecture: str
    name: str  # general.name, "" without one
    file_type: str  # "Q4_K - Medium"
    n_params: int
    size_bytes: int  # of the tensors
    n_ctx_train: int
    n_embd: int
    n_embd_out: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_swa: int  # sliding window in tokens, 0 without one
    n_vocab: int
    has_encoder: bool
    has_decoder: bool
    is_recurrent: bool
    is_hybrid: bool


class Model(NativeObject):
    """Weights in memory. Many contexts may share one model; it is safe to use from threads."""

    kind = "model"

    def __init__(
        self,
        handle: int,
        path: Path,
        options: LoadOptions,
        load_s: float,
        buffers: tuple[BufferUse, ...] = (),
    ) -> None:
        free = native.lib().llama_model_free

        def release(handle: int) -> None:
            free(handle)
            rpc.use(options.devices, -1)

        super().__init__(handle, release)
        rpc.use(options.devices, +1)
        self.path = path
        self.options = options
        self.load_s = load_s
        self.buffers = buffers  # of the weights

    @classmethod
    def load(
        cls, path: Path, options: LoadOptions | None = None, advance: Advance | None = None
    ) -> Model:
        """Load a GGUF file, or all shards of a split one (any of them may be named).

        `advance` gets bytes newly read. With mmap the pages are touched on first use, so
        `load_s` is then the time to map and place, not to read.
        Raises FileGone, DamagedFile (llama.cpp finds the content broken), EngineError
        (unsupported architecture, out of memory), UsageProblem (unknown device).
        """
        options = options or LoadOptions()
        start = time.perf_counter()
        with native.capture() as log:
            handle = load_handle(path, options, advance)
        return cls(handle, path, options, time.perf_counter() - start, buffers_of(log.lines))

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to tokens and back. A new object each time (cheap): keep it, it caches."""
        # Not stored: it refers to the model, and a cycle would delay freeing the weights.
        return Tokenizer(self)

    @cached_property
    def info(self) -> ModelInfo:
        llama, handle = native.lib(), self.handle
        return ModelInfo(
            description=_read(llama.llama_model_desc, handle),
            architecture=self.meta("general.architecture") or "",
            name=self.meta("general.name") or "",
            file_type=(llama.llama_ftype_name(llama.llama_model_ftype(handle)) or b"").decode(),
            n_params=llama.llama_model_n_params(handle),
            size_bytes=llama.llama_model_size(handle),
            n_ctx_train=llama.llama_model_n_ctx_train(handle),
            n_embd=llama.llama_model_n_embd(handle),
            n_embd_out=llama.llama_model_n_embd_out(handle),
            n_layer=llama.llama_model_n_layer(handle),
            n_head=llama.llama_model_n_head(handle),
            n_head_kv=llama.llama_model_n_head_kv(handle),
            n_swa=llama.llama_model_n_swa(handle),
            n_vocab=self.tokenizer.n_vocab,
            has_encoder=llama.llama_model_has_encoder(handle),
            has_decoder=llama.llama_model_has_decoder(handle),
            is_recurrent=llama.llama_model_is_recurrent(handle),
            is_hybrid=llama.llama_model_is_hybrid(handle),
        )

    def meta(self, key: str) -> str | None:
        """One metadata value as llama.cpp prints it; None if the key is absent or an array."""
        return read_optional(
            native.lib().llama_model_meta_val_str, self.handle, key.encode("utf-8", "replace")
        )

    def metadata(self) -> Mapping[str, str]:
        """Every scalar and string key (llama.cpp keeps no arrays here), sorted."""
        llama, handle = native.lib(), self.handle
        count = llama.llama_model_meta_count(handle)
        key_at = llama.llama_model_meta_key_by_index
        value_at = llama.llama_model_meta_val_str_by_index
        pairs = [(_read(key_at, handle, i), _read(value_at, handle, i)) for i in range(count)]
        return dict(sorted(pairs))


def read_optional(function: Any, *arguments: Any) -> str | None:
    """Call a `int32_t f(..., char * buf, size_t size)` that answers the length it needs."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = int(function(*arguments, buffer, size))
        if length < 0:
            return None
        if length < size:
            return buffer.raw[:length].decode("utf-8", "replace")
        size = length + 1


def _read(function: Any, *arguments: Any) -> str:
    return read_optional(function, *arguments) or ""
