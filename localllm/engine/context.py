"""A context: the KV cache and compute buffers that sequences of one model run in."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from localllm.engine import native
from localllm.engine.calls import AbortFlag, GaveUp, interruptible
from localllm.engine.handle import NativeObject
from localllm.engine.hooks import native_hook
from localllm.engine.interrupts import attended
from localllm.engine.memory import buffers_of
from localllm.engine.model import Model
from localllm.engine.options import FLASH_ATTENTION, KV_TYPES, POOLING, ContextOptions
from localllm.engine.sequences import MemoryKind, Sequences
from localllm.engine.threads import default_threads
from localllm.errors import EngineError, Interrupted, UsageProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# llama_decode's answers
_OK, _NO_SLOT, _ABORTED = 0, 1, 2


class ContextFull(EngineError):
    """No room in the KV cache for the tokens of this step."""


class Context(NativeObject):
    """One context. Compute in one thread at a time, and best always in the same: OpenMP
    builds lose a fifth of their speed when several threads of a process compute in turn.

    Raises EngineError when llama.cpp cannot make it (no memory, unsupported KV types).
    """

    kind = "context"

    def __init__(self, model: Model, options: ContextOptions | None = None) -> None:
        options = options or ContextOptions()
        check_options(model, options)
        self._llama = native.lib()
        self._abort = AbortFlag()
        self._hook_errors: list[BaseException] = []
        self._closing = False
        keep: list[Any] = [model]
        hook = native_hook(options.eval_hook, self._hook_errors)
        with native.capture() as log:
            made = _create(model, options, self._abort, hook, keep)
        super().__init__(made, self._llama.llama_free, keep)
        self.buffers = buffers_of(log.lines)  # of cache, states, results and computing
        model.depend(self)
        self.model = model
        self.options = options
        llama, handle = self._llama, self.handle
        self.n_ctx: int = llama.llama_n_ctx(handle)  # padded by llama.cpp
        self.n_ctx_seq: int = llama.llama_n_ctx_seq(handle)  # what one sequence may use
        self.n_batch: int = llama.llama_n_batch(handle)
        self.n_ubatch: int = llama.llama_n_ubatch(handle)
        self.n_seq_max: int = llama.llama_n_seq_max(handle)
        self.n_threads: int = llama.llama_n_threads(handle)
        self.n_threads_batch: int = llama.llama_n_threads_batch(handle)
        self._n_vocab = model.tokenizer.n_vocab
        self._row = ctypes.c_float * self._n_vocab
        self.sequences = Sequences(
            handle, self._memory_kind(), model.info.n_swa, options.kv_unified, self.n_seq_max
        )
        self.lock = self.sequences.lock  # between computing and freeing

    def _memory_kind(self) -> MemoryKind:
        info = self.model.info
        if info.is_recurrent or info.is_hybrid:
            return "state"
        return "window" if info.n_swa and not self.options.swa_full else "attention"

    def require_generation(self) -> None:
        """Raise EngineError for what cannot continue a text: embedders, diffusion, T5."""
        info = self.model.info
        usable = self.handle and self.sequences.exists
        if not usable or info.has_encoder or not info.has_decoder:
            raise EngineError(
                f"{self.model.path.name} ({info.architecture}) does not generate text"
            )

    # --- computing -----------------------------------------------------------------------

    def decode(self, batch: Any) -> None:
        """Run one llama_batch of at most `n_batch` tokens; logits of its last token stay.

        Raises ContextFull when the cache has no room (nothing was changed), Interrupted
        when `abort()` came in between, EngineError on failure.
        """
        with self.lock:
            code = self._llama.llama_decode(self.handle, batch)
        if self._hook_errors:
            error = self._hook_errors[0]
            self._hook_errors.clear()
            self.clear()  # part of the graph was left out: what it wrote is of no use
            raise error
        if code != _OK:
            raise self._failure(code)

    def prefill(self, tokens: Sequence[int]) -> None:
        """Append `tokens` to sequence 0. Ctrl-C stops within a graph node.

        What was computed before an interrupt stays in memory: see `length`.
        """
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        self.interruptible(lambda: self.append(array))

    def append(self, array: ctypes.Array[ctypes.c_int32]) -> None:
        """Append tokens to sequence 0 in chunks of `n_batch`, with logits of each last one."""
        for start in range(0, len(array), self.n_batch):
            n = min(self.n_batch, len(array) - start)
            chunk = ctypes.byref(array, start * ctypes.sizeof(ctypes.c_int32))
            tokens = ctypes.cast(chunk, ctypes.POINTER(ctypes.c_int32))
            self.decode(self._llama.llama_batch_get_one(tokens, n))

    def interruptible(self, run: Callable[[], None]) -> None:
        """Run a computation of this context so that Ctrl-C ends it early."""
        attended(run, self.abort)

    def abort(self) -> None:
        """End the computation under way at the next graph node, and all later ones at once,
        until `arm()`. From any thread. CPU backends look between nodes; a GPU finishes its
        batch first.
        """
        self._abort.raise_()

    def arm(self) -> None:
        """Take back an `abort()`. Whoever starts a piece of work does this first."""
        self._abort.clear()

    def synchronize(self) -> None:
        self._llama.llama_synchronize(self.handle)

    def logits(self, index: int = -1) -> NDArray[np.float32]:
        """A copy of one output's logits [n_vocab]; -1 is the last output of the last batch."""
        return self.logits_view(index).copy()

    def logits_view(self, index: int = -1) -> NDArray[np.float32]:
        """The logits where llama.cpp keeps them: valid until the next decode."""
        import numpy as np

        pointer = self._llama.llama_get_logits_ith(self.handle, index)
        if not pointer:
            raise EngineError("the last batch computed no logits at this place")
        # as_array(pointer, shape) would make its array type anew each time
        row: Any = self._row.from_address(ctypes.addressof(pointer.contents))
        return np.frombuffer(row, dtype=np.float32)

    @cached_property
    def candidates(self) -> Any:
        """Room for a llama_token_data of every token, for who samples under `lock`; what stands in
        it is of use only until the lock is released. 12 bytes a token, made on first use."""
        return (self._llama.llama_token_data * self._n_vocab)()

    def check_logits(self, index: int = -1) -> None:
        """Raise EngineError if this output is NaN: samplers would choose at random."""
        top = float(self.logits_view(index).max())  # NaN if any is
        if math.isnan(top):
            from localllm.engine.adapter import attached

            name = self.model.path.name
            if attached(self):
                raise EngineError(
                    f"{name} computes NaN with its adapters: a scale is too large, or a file is "
                    "damaged",
                    "--lora ADAPTER:1, then localllm verify MODEL",
                )
            raise EngineError(
                f"{name} computes NaN: the file is damaged, or its numbers "
                "overflow this KV cache type",
                "try --kv f32, then localllm verify MODEL",
            )

    # --- memory --------------------------------------------------------------------------

    def length(self, sequence: int = 0) -> int:
        """Tokens of `sequence` in memory: its last position plus one."""
        return self.sequences.length(sequence)

    def clear(self) -> None:
        """Forget every sequence."""
        self.sequences.clear()

    def truncate(self, n_keep: int, sequence: int = 0) -> int:
        """Keep the first `n_keep` tokens of `sequence`; the number really kept is returned."""
        return self.sequences.truncate(n_keep, sequence)

    # --- ending --------------------------------------------------------------------------

    def close(self) -> None:
        """Stop what is being computed, then free. May be called twice."""
        if self.closed:
            return
        self._closing = True
        self._abort.raise_()
        with self.lock:
            self.sequences.end()
            super().close()

    def _failure(self, code: int) -> EngineError | Interrupted:
        if code == _NO_SLOT:
            return ContextFull(f"the context of {self.n_ctx} tokens is full")
        if self._closing:
            return EngineError("this context is closed")
        if code == _ABORTED:
            return Interrupted("the computation was stopped")
        why = native.last_reason()
        return EngineError(f"llama.cpp could not decode{': ' if why else ''}{why} (code {code})")


def check_options(model: Model, options: ContextOptions) -> None:
    """Refuse here what llama.cpp would assert on, that is, end the process for."""
    if model.options.vocab_only:
        raise EngineError(f"{model.path.name} was loaded for its vocabulary only")
    for name in (options.type_k, options.type_v):
        if name.lower() not in KV_TYPES:
            raise UsageProblem(f"{name!r} is no KV cache type (one of {', '.join(KV_TYPES)})")
    for name in ("n_ctx", "n_threads", "n_threads_batch", "n_outputs_max"):
        if getattr(options, name) < 0:
            raise UsageProblem(f"{name} is negative")
    for name in ("n_batch", "n_ubatch", "n_seq_max"):
        if getattr(options, name) < 1:
            raise UsageProblem(f"{name} must be at least 1")
    limit = native.lib().llama_max_parallel_sequences()
    if options.n_seq_max > limit:
        raise UsageProblem(f"llama.cpp runs at most {limit} sequences in a context")
    n_batch = min(options.n_batch, options.n_ctx or model.info.n_ctx_train)
    if options.n_seq_max > n_batch:
        raise UsageProblem(
            f"{options.n_seq_max} sequences need a context and a batch of as many tokens at least"
        )
    if options.embeddings and min(options.n_ubatch, n_batch) % options.n_seq_max:
        # llama.cpp reserves its graph for a batch that divides among all sequences
        raise UsageProblem("for embeddings n_ubatch must be a multiple of n_seq_max")
    if options.n_ctx > 2**31 - 1:
        raise UsageProblem(f"a context of {options.n_ctx} tokens is more than llama.cpp can count")


def _create(
    model: Model, options: ContextOptions, abort: AbortFlag, hook: Any, keep: list[Any]
) -> int:
    llama = native.lib()
    params = context_params(llama, options, abort, keep)
    if hook is not None:
        params.cb_eval = hook
        keep.append(hook)
    source = model.handle
    what = f"llama.cpp could not make a context of {options.n_ctx} tokens for {model.path.name}"
    try:
        with native.capture() as log:
            handle: int | None = interruptible(
                lambda: llama.llama_init_from_model(source, params),
                discard=lambda made: llama.llama_free(made) if made else None,
                expendable=True,
            )
    except GaveUp as error:
        raise native.failure(what, error.why) from None
    if not handle:
        raise native.failure(what, log, "localllm fit MODEL")
    return handle


def context_params(llama: Any, options: ContextOptions, abort: AbortFlag, keep: list[Any]) -> Any:
    """llama_context_params; what they point to and must outlive the context goes to `keep`."""
    keep.append(abort)
    threads = options.n_threads or default_threads()
    params = llama.llama_context_default_params()
    params.n_ctx = options.n_ctx
    params.n_batch = options.n_batch
    params.n_ubatch = options.n_ubatch
    params.n_seq_max = options.n_seq_max
    if options.n_outputs_max and not options.embeddings:
        params.n_outputs_max = max(options.n_outputs_max, options.n_seq_max)
    params.n_threads = threads
    params.n_threads_batch = options.n_threads_batch or threads
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attn]
    params.type_k = KV_TYPES[options.type_k.lower()]
    params.type_v = KV_TYPES[options.type_v.lower()]
    params.embeddings = options.embeddings
    params.pooling_type = POOLING[options.pooling]
    params.swa_full = options.swa_full
    params.kv_unified = options.kv_unified
    params.offload_kqv = options.offload_kqv
    params.op_offload = options.op_offload
    params.no_perf = True
    params.abort_callback, params.abort_callback_data = abort.callback(llama.ggml_abort_callback)
    return params
