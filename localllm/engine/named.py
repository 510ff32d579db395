"""Whether a GGUF has a tensor, by ggml's own reader: for what llama.cpp does not check itself."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from localllm.engine import native


class _InitParams(ctypes.Structure):
    """struct gguf_init_params of gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def has_tensor(path: Path, name: str) -> bool:
    """Reads the header alone. False for what is no GGUF, too."""
    init = native.ggml("gguf_init_from_file", ctypes.c_void_p, ctypes.c_char_p, _InitParams)
    find = native.ggml("gguf_find_tensor", ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p)
    free = native.ggml("gguf_free", None, ctypes.c_void_p)
    with native.capture():
        header = init(os.fsencode(path), _InitParams(True, None))
    if not header:
        return False
    try:
        return int(find(header, name.encode())) >= 0
    finally:
        free(header)
