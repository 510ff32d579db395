"""The door to libmtmd, llama.cpp's library for images beside text.

It and libllama are one release: the binding's structs are those of the wheel. Its log goes where
llama.cpp's goes.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
from typing import Any

from localllm.engine import native
from localllm.engine.logs import router
from localllm.errors import EngineError

_lock = threading.Lock()
_mtmd: Any = None
_keep: list[Any] = []  # callbacks that native code may still call; never collected


def lib() -> Any:
    """llama_cpp's binding of mtmd. Raises EngineError where the build has none."""
    global _mtmd
    low = native.lib()
    with _lock:
        if _mtmd is None:
            _mtmd = _initialise(low)
    return _mtmd


def _initialise(low: Any) -> Any:
    try:
        import llama_cpp.mtmd_cpp as mtmd
    except (ImportError, OSError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise EngineError(
            f"this build of llama.cpp reads no images: {line}",
            "pip install --force-reinstall --no-cache-dir 'llama-cpp-python>=0.3.36,<0.4'",
        ) from None

    @low.llama_log_callback  # type: ignore[untyped-decorator]
    def on_log(level: int, text: bytes | None, _user_data: int | None) -> None:
        router.feed(level, (text or b"").decode("utf-8", "replace"))

    _keep.append(on_log)
    mtmd.mtmd_helper_log_set(on_log, ctypes.c_void_p(0))
    atexit.register(_silence, low, mtmd)
    return mtmd


def _silence(low: Any, mtmd: Any) -> None:
    """At exit, as native does: a call into a finalised interpreter would crash."""
    no_op = ctypes.cast(low._lib.llama_time_us, low.llama_log_callback)
    _keep.append(no_op)
    mtmd.mtmd_helper_log_set(no_op, ctypes.c_void_p(0))
