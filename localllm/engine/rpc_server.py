"""Lending this machine's devices to llama.cpp's RPC backend on others; see rpc."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from localllm.engine import native
from localllm.engine.rpc import require

_SIZE_P = ctypes.POINTER(ctypes.c_size_t)
_GET_MEMORY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, _SIZE_P, _SIZE_P)
_keep: list[Any] = []  # callbacks that native code may still call; never collected


def serve(host: str, port: int, devices: Sequence[int], n_threads: int) -> None:
    """Serve these ggml_backend_dev_t at an IPv4 address. Does not return while it can listen.

    Prints to the process's stdout by itself: whoever calls this sends that elsewhere.
    """
    require()
    start = native.ggml(
        "ggml_backend_rpc_start_server", None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t,
        ctypes.c_size_t, ctypes.c_void_p,
    )  # fmt: skip
    handles = (ctypes.c_void_p * len(devices))(*devices)
    start(f"{host}:{port}".encode(), None, n_threads, len(devices), handles)


def tell_free_memory(handle: int, available_bytes: Callable[[], int]) -> bool:
    """Let the processor's device (a ggml_backend_dev_t) say what is really available, in this
    process: ggml says that all of the main memory is free, and a plan that believed it would end
    in the kernel's killing the worker. False where the device is not built as it was here.

    ggml_backend_device begins with its functions: get_name, get_description, get_memory, ...
    (ggml-backend-impl.h). The first two are called to see that they are what they should be.
    """
    slots = (ctypes.c_void_p * 3).from_address(handle)
    text_of = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)
    for slot, name in enumerate(("ggml_backend_dev_name", "ggml_backend_dev_description")):
        there = slots[slot]
        wanted = native.ggml(name, ctypes.c_char_p, ctypes.c_void_p)(handle)
        if not there or text_of(there)(handle) != wanted:
            return False
    own = _GET_MEMORY(slots[2] or 0)

    def get_memory(device: Any, free: Any, total: Any) -> None:
        own(device, free, total)
        free[0] = min(total[0], max(0, available_bytes()))

    callback = _GET_MEMORY(get_memory)
    _keep.append(callback)
    slots[2] = ctypes.cast(callback, ctypes.c_void_p).value
    return True
