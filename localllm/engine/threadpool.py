"""A pool of compute threads that a context keeps, as llama.cpp's own programs give theirs.

Without one ggml makes a pool for every graph, that is, for every token: with OpenMP that costs
little, without (macOS, some Windows builds) threads are started and ended each time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from localllm.engine import native
from localllm.engine.context import Context

_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_MAX_THREADS = 512  # GGML_MAX_N_THREADS


class _Parameters(ctypes.Structure):
    """ggml_threadpool_params."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * _MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("priority", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


@contextmanager
def attached(context: Context, priority: int = 0) -> Iterator[None]:
    """Compute `context` on a pool of its own while the block runs.

    `priority` is ggml's: -1 low, 0 normal, 1 medium, 2 high, 3 realtime; above 0 the system may
    refuse it, which ggml only warns of. A build whose CPU backend has no pools goes without.
    """
    new, free = _function("ggml_threadpool_new"), _function("ggml_threadpool_free")
    if not new or not free:
        yield
        return
    parameters = _Parameters()
    pointer = ctypes.POINTER(_Parameters)
    native.ggml("ggml_threadpool_params_init", None, pointer, ctypes.c_int)(
        ctypes.byref(parameters), context.n_threads
    )
    parameters.priority = priority
    pool = ctypes.CFUNCTYPE(ctypes.c_void_p, pointer)(new)(ctypes.byref(parameters))
    attach = native.ggml("llama_attach_threadpool", None, *[ctypes.c_void_p] * 3)
    attach(context.handle, pool, None)
    try:
        yield
    finally:
        if not context.closed:
            native.ggml("llama_detach_threadpool", None, ctypes.c_void_p)(context.handle)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(free)(pool)


def _function(name: str) -> Any:
    """The address of a function of the CPU backend, which may be a library of its own."""
    one = ctypes.c_void_p
    device = native.ggml("ggml_backend_dev_by_type", one, ctypes.c_int)(_CPU)
    registry = native.ggml("ggml_backend_dev_backend_reg", one, one)(device)
    return native.ggml("ggml_backend_reg_get_proc_address", one, one, ctypes.c_char_p)(
        registry, name.encode()
    )
