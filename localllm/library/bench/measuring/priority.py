"""The process's priority, in llama-bench's steps (set_process_priority, common.cpp)."""

from __future__ import annotations

import os
import sys

from localllm.errors import LocalLLMError

_NICE = {-1: 5, 0: 0, 1: -5, 2: -10, 3: -20}
# Below normal, normal, above normal, high, realtime: SetPriorityClass's.
_CLASSES = {-1: 0x4000, 0: 0x20, 1: 0x8000, 2: 0x80, 3: 0x100}


def set_priority(priority: int) -> None:
    """From -1 (low) to 3 (realtime); 0 leaves it as it is. Call it before llama.cpp is loaded:
    on Linux its threads take over what the thread that starts them has.

    Raises LocalLLMError where the system refuses: above 0 it may want an administrator.
    """
    if priority == 0:
        return
    try:
        if sys.platform == "win32":
            _set_class(_CLASSES[priority])
        else:
            os.setpriority(os.PRIO_PROCESS, 0, _NICE[priority])
    except OSError as error:
        raise LocalLLMError(
            f"the system refuses priority {priority}: {error.strerror}",
            "without --prio, or as an administrator",
        ) from None


def _set_class(number: int) -> None:
    import ctypes

    if sys.platform == "win32":
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.SetPriorityClass.argtypes = (ctypes.c_void_p, ctypes.c_uint)
        if not kernel.SetPriorityClass(kernel.GetCurrentProcess(), number):
            raise ctypes.WinError(ctypes.get_last_error())
